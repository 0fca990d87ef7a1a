package main

import (
	"testing"
	"time"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

func TestMain(m *testing.M) { authtest.Main(m) }

func TestAnswers(t *testing.T) {
	d := authtest.Service(t)
	client, err := hitkeepauth.New(d.Listen, hitkeepauth.WithPlaintext(),
		hitkeepauth.WithCallerToken(d.Callers.Replicate),
		hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{MaxStaleness: time.Hour}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	site := hitkeepauth.MustParseID(d.Directory.Sites[0])
	for _, c := range []struct {
		asked    question
		active   bool
		reason   string
		decision string
	}{
		{question{Token: d.PersonalClient.Token}, true, "", ""},
		{question{Token: d.PersonalClient.Token, Permission: hitkeepauth.SiteView, SiteID: site}, true, "", "ALLOWED"},
		{question{Token: d.PersonalClient.Token, Permission: hitkeepauth.SiteDelete, SiteID: site}, true, "", "ROLE_TOO_LOW"},
		{question{Token: d.PersonalClient.Token, Permission: hitkeepauth.SiteView, SiteID: hitkeepauth.ID{1}}, true, "", "NO_SITE_GRANT"},
		{question{Token: "junk", Permission: hitkeepauth.SiteView, SiteID: site}, false, "UNKNOWN_TOKEN", "INACTIVE"},
	} {
		said, err := judge(client, c.asked)
		if err != nil || said.Unavailable != "" || said.Active != c.active || said.InactiveReason != c.reason ||
			said.Decision != c.decision || said.Revision == 0 || said.Active == (said.ClientID == "") {
			t.Errorf("%+v, %v", said, err)
		}
	}
}
