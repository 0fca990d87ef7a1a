package hitkeepauth_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
)

// The page's tables are compared with the service's code by its own tests.
func TestPermissionsAreThoseOfThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/access-rules.md")
	if err != nil {
		t.Fatal(err)
	}
	var roles []string
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		if cells[0] == "permission" {
			roles = cells[1:]
		}
		permission := hitkeepauth.Permission(cells[0])
		onInstance := strings.HasPrefix(cells[0], "instance.")
		if len(cells) != len(roles)+1 || !permission.OnSite() && !onInstance {
			continue
		}
		rows++
		for i, role := range roles {
			has := hitkeepauth.SiteRole(role).HasPermission(permission)
			if onInstance {
				has = hitkeepauth.InstanceRole(role).HasPermission(permission)
			}
			if has != (cells[i+1] == "yes") {
				t.Errorf("%s has %s: %t", role, permission, has)
			}
		}
	}
	all := len(hitkeepauth.SiteOwner.Permissions()) + len(hitkeepauth.InstanceOwner.Permissions())
	if rows != 19 || all != rows {
		t.Errorf("%d permissions on the page, %d here", rows, all)
	}
}

func TestAnUnknownRoleIsNone(t *testing.T) {
	for _, role := range []hitkeepauth.SiteRole{"", "root", "Owner"} {
		if role.HasPermission(hitkeepauth.SiteView) || role.AtLeast(hitkeepauth.SiteViewer) || role.AtLeast(role) ||
			len(role.Permissions()) > 0 {
			t.Error(role)
		}
	}
	if hitkeepauth.SiteOwner.HasPermission("site.fly") || hitkeepauth.InstanceOwner.HasPermission(hitkeepauth.SiteView) {
		t.Error("an unknown permission is carried")
	}
	if !hitkeepauth.TeamRoleOwner.AtLeast(hitkeepauth.TeamRoleAdmin) || hitkeepauth.TeamRoleMember.AtLeast(hitkeepauth.TeamRoleAdmin) {
		t.Error("team roles")
	}
}

func TestAnInstanceRoleNeverWidensAGrant(t *testing.T) {
	owner := &hitkeepauth.Principal{InstanceRole: hitkeepauth.InstanceOwner}
	site := hitkeepauth.MustParseID(goneSite)
	if owner.Can(hitkeepauth.SiteView, site) || owner.Can(hitkeepauth.InstanceViewAudit, site) ||
		!owner.Can(hitkeepauth.InstanceViewAudit, hitkeepauth.ID{}) || owner.Require(hitkeepauth.SiteView, site) == nil {
		t.Error("it does")
	}
	var none *hitkeepauth.Principal
	if none.Can(hitkeepauth.InstanceViewAudit, hitkeepauth.ID{}) {
		t.Error("a nil principal can")
	}
}

func TestIDs(t *testing.T) {
	const text = "01930000-0000-7000-8000-0000000a11ce"
	id, err := hitkeepauth.ParseID(strings.ToUpper(text))
	if err != nil || id.String() != text || [16]byte(id)[0] != 1 {
		t.Fatal(id, err)
	}
	for _, wrong := range []string{
		"", "x", text[1:], text + "0", "{" + text[2:] + "}", strings.ReplaceAll(text, "-", "0"),
		strings.Replace(text, "a11ce", "a11cg", 1), "00000000-0000-0000-0000-000000000000",
	} {
		if id, err := hitkeepauth.ParseID(wrong); err == nil {
			t.Error(wrong, id)
		}
	}
	var read struct{ ID, None hitkeepauth.ID }
	if err := json.Unmarshal([]byte(`{"ID":"`+text+`","None":""}`), &read); err != nil || read.ID != id || !read.None.IsZero() {
		t.Error(read, err)
	}
	if err := json.Unmarshal([]byte(`{"ID":"x"}`), &read); err == nil {
		t.Error("it is none")
	}
	first, second := hitkeepauth.NewRequestID(), hitkeepauth.NewRequestID()
	if first == second || first[6]>>4 != 4 || first[8]>>6 != 2 {
		t.Error(first, second)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(goneSite)
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := hitkeepauth.ParseID(text); err == nil && id.String() != strings.ToLower(text) {
			t.Error(text, id)
		}
	})
}
