package hitkeepauth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

// authority issues certificates for a test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	var a authority
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	a.certificate, a.key = a.issue(t, template)
	return a
}

func (a authority) issue(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func pemFile(t *testing.T, kind string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTLSAndCertificates(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	ours, strangers := newAuthority(t), newAuthority(t)
	certificate, key := ours.issue(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca := pemFile(t, "CERTIFICATE", ours.certificate.Raw)
	server := authtest.Serve(t, "--tls-cert", pemFile(t, "CERTIFICATE", certificate.Raw),
		"--tls-key", pemFile(t, "PRIVATE KEY", keyDER), "--tls-client-ca", ca)
	// So that the test can be repeated.
	name := hitkeepauth.NewRequestID().String() + ".example"
	authtest.Run(t, "service-account", "create", name, "--allow", "introspect,manage",
		"--certificate-name", "dns:"+name)
	clientCertificate, clientKey := ours.issue(t, &x509.Certificate{
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	withCertificate := hitkeepauth.WithTLS(&tls.Config{
		RootCAs:      ours.pool(),
		Certificates: []tls.Certificate{{Certificate: [][]byte{clientCertificate.Raw}, PrivateKey: clientKey}},
	})
	token := caller(d.Callers.Introspect)
	for name, c := range map[string]struct {
		options []hitkeepauth.Option
		works   bool
	}{
		"a token":              {[]hitkeepauth.Option{token, hitkeepauth.WithTLS(&tls.Config{RootCAs: ours.pool()})}, true},
		"a certificate":        {[]hitkeepauth.Option{withCertificate}, true},
		"a certificate, cache": {[]hitkeepauth.Option{withCertificate, hitkeepauth.WithCache(10)}, true},
		"another authority":    {[]hitkeepauth.Option{token, hitkeepauth.WithTLS(&tls.Config{RootCAs: strangers.pool()})}, false},
		"the system's":         {[]hitkeepauth.Option{token}, false},
		"plaintext":            {[]hitkeepauth.Option{token, hitkeepauth.WithPlaintext()}, false},
	} {
		client, err := hitkeepauth.New(server.Address, c.options...)
		if err != nil {
			t.Fatal(name, err)
		}
		_, err = client.Authenticate(t.Context(), d.PersonalClient.Token)
		if c.works != (err == nil) || err != nil && !errors.Is(err, hitkeepauth.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}

	// The service takes no request_id from a caller that has a certificate, so none is made.
	client, err := hitkeepauth.New(server.Address, withCertificate)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	alice := hitkeepauth.MustParseID(d.Directory.Users.Alice)
	_, err = client.Create(t.Context(), hitkeepauth.CreateRequest{
		Actor:      hitkeepauth.Actor{UserID: alice},
		Owner:      hitkeepauth.OwnedByUser(alice),
		Delegation: hitkeepauth.Delegation{Name: "by a certificate"},
	})
	if err != nil {
		t.Fatal(err)
	}
}
