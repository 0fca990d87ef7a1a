package hitkeepauth_test

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
)

func TestWhatIsNoClient(t *testing.T) {
	token := caller("hks_secret")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		target  string
		options []hitkeepauth.Option
	}{
		"no target":           {"", []hitkeepauth.Option{token}},
		"a URL":               {"https://auth.example.com", []hitkeepauth.Option{token}},
		"no caller":           {"localhost:1", nil},
		"no caller, with TLS": {"localhost:1", []hitkeepauth.Option{hitkeepauth.WithTLS(&tls.Config{})}},
		"no TLS":              {"localhost:1", []hitkeepauth.Option{token, hitkeepauth.WithTLS(nil)}},
		"TLS and plaintext":   {"localhost:1", []hitkeepauth.Option{token, hitkeepauth.WithTLS(&tls.Config{}), hitkeepauth.WithPlaintext()}},
		"an empty token":      {"localhost:1", []hitkeepauth.Option{caller(" ")}},
		"a client's token":    {"localhost:1", []hitkeepauth.Option{caller("hkp_secret")}},
		"a token in two rows": {"localhost:1", []hitkeepauth.Option{caller("hks_secret\nhks_secret")}},
		"an empty file":       {"localhost:1", []hitkeepauth.Option{hitkeepauth.WithCallerTokenFile(empty)}},
		"a large file":        {"localhost:1", []hitkeepauth.Option{hitkeepauth.WithCallerTokenFile(large)}},
		"no room":             {"localhost:1", []hitkeepauth.Option{token, hitkeepauth.WithCache(0)}},
		"no time":             {"localhost:1", []hitkeepauth.Option{token, hitkeepauth.WithQuestionTimeout(0)}},
		"no time for calls":   {"localhost:1", []hitkeepauth.Option{token, hitkeepauth.WithCallTimeout(-1)}},
	} {
		client, err := hitkeepauth.New(c.target, c.options...)
		if err == nil {
			_ = client.Close()
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAClientShowsNoSecret(t *testing.T) {
	client := newClient(t, "localhost:1", caller("hks_secret"))
	if said := fmt.Sprintf("%+v %#v", client, client); strings.Contains(said, "hks_secret") {
		t.Error(said)
	}
}

// Without being asked to, it sends no token over a connection that is not encrypted.
func TestTLSIsTheDefault(t *testing.T) {
	noLeaks(t)
	for _, options := range [][]hitkeepauth.Option{
		{caller("hks_x")},
		{hitkeepauth.WithTLS(&tls.Config{Certificates: []tls.Certificate{{}}})},
	} {
		client, err := hitkeepauth.New("127.0.0.1:1", options...)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
