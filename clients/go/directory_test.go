package hitkeepauth_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"slices"
	"testing"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

// numbered makes ids for tests.
func numbered(kind byte, n int) hitkeepauth.ID {
	id := hitkeepauth.ID{0: 1, 6: 0x70, 8: 0x80, 9: kind}
	binary.BigEndian.PutUint32(id[12:], uint32(n))
	return id
}

// company has a team, with a site and an owner each for so many users.
func company(users int) hitkeepauth.Directory {
	var d hitkeepauth.Directory
	team := numbered('t', 1)
	d.Teams = []hitkeepauth.Team{{ID: team}}
	for n := range users {
		user, site := numbered('u', n), numbered('s', n)
		d.Users = append(d.Users, hitkeepauth.User{ID: user, InstanceRole: hitkeepauth.InstanceUser})
		d.TeamMembers = append(d.TeamMembers, hitkeepauth.TeamMember{TeamID: team, UserID: user, Role: hitkeepauth.TeamRoleMember})
		d.Sites = append(d.Sites, hitkeepauth.Site{ID: site, TeamID: team})
		d.SiteMembers = append(d.SiteMembers, hitkeepauth.SiteMember{SiteID: site, UserID: user, Role: hitkeepauth.SiteOwner})
	}
	return d
}

func TestDirectories(t *testing.T) {
	noLeaks(t)
	d := authtest.NewService(t)
	client := newClient(t, d.Listen, caller(d.Callers.Directory))
	sync := client.NewDirectorySync(hitkeepauth.SyncOptions{AllowMassRemoval: true})
	send := func(sync *hitkeepauth.DirectorySync, directory hitkeepauth.Directory) hitkeepauth.SyncResult {
		t.Helper()
		result, err := sync.Sync(t.Context(), func(context.Context) (hitkeepauth.Directory, error) { return directory, nil })
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	expect := func(got hitkeepauth.SyncResult, changes int, replaced bool) {
		t.Helper()
		if got.Changes != changes || got.Replaced != replaced {
			t.Fatalf("%+v, where %d changes, replaced: %t, were to be", got, changes, replaced)
		}
	}

	// More than one message, and more than one batch.
	directory := company(2000)
	if first := send(sync, directory); !first.Replaced || first.Revision == 0 {
		t.Fatalf("%+v", first)
	}
	expect(send(sync, directory), 0, false)

	// Every kind of change, in one batch: a site moves, and the team that it was in goes.
	other, left := numbered('t', 2), numbered('t', 3)
	changed := directory
	changed.Teams = []hitkeepauth.Team{{ID: numbered('t', 1), Archived: true}, {ID: other}, {ID: left}}
	changed.Users = slices.Clone(directory.Users)
	changed.Users[0].Disabled = true
	changed.Sites = slices.Clone(directory.Sites)
	changed.Sites[0].TeamID = left
	expect(send(sync, changed), 5, false)
	changed.Teams = changed.Teams[:2]
	changed.Sites = slices.Clone(changed.Sites)
	changed.Sites[0].TeamID = other
	changed.TeamMembers = append(slices.Clone(changed.TeamMembers), hitkeepauth.TeamMember{
		TeamID: other, UserID: numbered('u', 1), Role: hitkeepauth.TeamRoleAdmin,
	})
	expect(send(sync, changed), 3, false)
	// Two at the end go, with what is about them.
	changed.Users = changed.Users[:1998]
	changed.TeamMembers = slices.DeleteFunc(slices.Clone(changed.TeamMembers), func(m hitkeepauth.TeamMember) bool {
		return m.UserID == numbered('u', 1998) || m.UserID == numbered('u', 1999)
	})
	changed.Sites = changed.Sites[:1998]
	changed.SiteMembers = changed.SiteMembers[:1998]
	expect(send(sync, changed), 8, false)
	expect(send(sync, changed), 0, false)
	sync.Forget()
	expect(send(sync, changed), 0, true)

	// Another program's change is found, and undone.
	service := hitkeepauthpb.NewDirectoryServiceClient(client.Conn())
	foreign := &hitkeepauthpb.ApplyDirectoryChangesRequest{Changes: []*hitkeepauthpb.DirectoryChange{{
		Change: &hitkeepauthpb.DirectoryChange_DeleteSite{DeleteSite: &hitkeepauthpb.SiteRef{Id: numbered('s', 7).String()}},
	}}}
	if _, err := service.ApplyDirectoryChanges(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	expect(send(sync, changed), 2, true)
	expect(send(sync, changed), 0, false)

	// So is that of another one of its kind, whose sequence is higher.
	second := client.NewDirectorySync(hitkeepauth.SyncOptions{})
	fewer := changed
	fewer.SiteMembers = changed.SiteMembers[1:]
	expect(send(second, fewer), 1, true)
	expect(send(sync, changed), 1, true)

	// Also if there are as many of everything.
	lesser := changed
	lesser.SiteMembers = slices.Clone(changed.SiteMembers)
	lesser.SiteMembers[0].Role = hitkeepauth.SiteViewer
	expect(send(second, lesser), 1, true)
	expect(send(sync, changed), 1, true)

	// A batch that another one's overtakes is skipped, and not taken for applied.
	overtaken := false
	result, err := sync.Sync(t.Context(), func(context.Context) (hitkeepauth.Directory, error) {
		if !overtaken {
			overtaken = true
			send(second, lesser)
		}
		return fewer, nil
	})
	if err != nil || !result.Replaced || result.Changes != 1 {
		t.Fatal(result, err)
	}
	expect(send(sync, changed), 1, false)

	// The source is read again if a change overtakes what was read.
	reads := 0
	sync.Forget()
	result, err = sync.Sync(t.Context(), func(context.Context) (hitkeepauth.Directory, error) {
		reads++
		if reads == 1 {
			send(second, fewer)
		}
		return changed, nil
	})
	if err != nil || reads != 2 || result.Changes != 1 {
		t.Fatal(result, err, reads)
	}
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	noLeaks(t)
	d := authtest.NewService(t)
	client := newClient(t, d.Listen, caller(d.Callers.Directory))
	// The demonstration would go.
	_, err := client.SyncDirectory(t.Context(), company(1))
	refused(t, err, hitkeepauth.ReasonMassRemoval, http.StatusConflict)
	sync := client.NewDirectorySync(hitkeepauth.SyncOptions{AllowMassRemoval: true})
	read := func(d hitkeepauth.Directory, err error) func(context.Context) (hitkeepauth.Directory, error) {
		return func(context.Context) (hitkeepauth.Directory, error) { return d, err }
	}
	broken := errors.New("broken")
	if _, err := sync.Sync(t.Context(), read(hitkeepauth.Directory{}, broken)); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	twice := company(1)
	twice.Users = append(twice.Users, twice.Users[0])
	if _, err := sync.Sync(t.Context(), read(twice, nil)); err == nil {
		t.Fatal("a user is there twice")
	}
	good := company(2)
	if _, err := sync.Sync(t.Context(), read(good, nil)); err != nil {
		t.Fatal(err)
	}
	wrong := company(2)
	wrong.Sites[0].TeamID = numbered('t', 9)
	_, err = sync.Sync(t.Context(), read(wrong, nil))
	refused(t, err, hitkeepauth.ReasonInvalidField, http.StatusBadRequest)
	wrong = company(2)
	wrong.Users[0].InstanceRole = "root"
	_, err = sync.Sync(t.Context(), read(wrong, nil))
	refused(t, err, hitkeepauth.ReasonInvalidField, http.StatusBadRequest)
	// Nothing of it was applied.
	result, err := sync.Sync(t.Context(), read(good, nil))
	if err != nil || result.Changes != 0 || !result.Replaced {
		t.Fatal(result, err)
	}
}

// A source that was not read to its end takes nothing away, however often it was read before.
func TestADirectoryOfASourceThatBreaks(t *testing.T) {
	noLeaks(t)
	d := authtest.NewService(t)
	client := newClient(t, d.Listen, caller(d.Callers.Directory))
	send := func(sync *hitkeepauth.DirectorySync, d hitkeepauth.Directory) (hitkeepauth.SyncResult, error) {
		return sync.Sync(t.Context(), func(context.Context) (hitkeepauth.Directory, error) { return d, nil })
	}
	whole := company(10)
	careless := client.NewDirectorySync(hitkeepauth.SyncOptions{AllowMassRemoval: true})
	if _, err := send(careless, whole); err != nil {
		t.Fatal(err)
	}
	careful := client.NewDirectorySync(hitkeepauth.SyncOptions{})
	withoutSites := whole
	withoutSites.Sites, withoutSites.SiteMembers = nil, nil
	for _, broken := range []hitkeepauth.Directory{{}, company(4), withoutSites} {
		if result, err := send(careful, whole); err != nil || result.Changes != 0 {
			t.Fatal(result, err)
		}
		_, err := send(careful, broken)
		refused(t, err, hitkeepauth.ReasonMassRemoval, http.StatusConflict)
	}
	// Half of them may go, in one batch.
	if _, err := send(careful, whole); err != nil {
		t.Fatal(err)
	}
	if result, err := send(careful, company(5)); err != nil || result.Replaced || result.Changes != 20 {
		t.Fatal(result, err)
	}
}

// Who waits for a turn does not wait longer than the call may take.
func TestADirectoryThatIsBeingRead(t *testing.T) {
	noLeaks(t)
	d := authtest.NewService(t)
	client := newClient(t, d.Listen, caller(d.Callers.Directory))
	sync := client.NewDirectorySync(hitkeepauth.SyncOptions{})
	reads, isRead := make(chan struct{}), make(chan struct{})
	broken := errors.New("broken")
	done := make(chan error)
	go func() {
		_, err := sync.Sync(t.Context(), func(context.Context) (hitkeepauth.Directory, error) {
			close(reads)
			<-isRead
			return hitkeepauth.Directory{}, broken
		})
		done <- err
	}()
	<-reads
	sync.Forget()
	ended, end := context.WithCancel(t.Context())
	end()
	_, err := sync.Sync(ended, func(context.Context) (hitkeepauth.Directory, error) {
		t.Error("it was not its turn")
		return hitkeepauth.Directory{}, broken
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(isRead)
	if err := <-done; !errors.Is(err, broken) {
		t.Error(err)
	}
}

// What became of a batch whose reply was lost is not guessed.
func TestADirectoryAfterAnOutage(t *testing.T) {
	noLeaks(t)
	d := authtest.NewService(t)
	proxy := authtest.NewProxy(t, d.Listen)
	client := newClient(t, proxy.Address, caller(d.Callers.Directory))
	sync := client.NewDirectorySync(hitkeepauth.SyncOptions{AllowMassRemoval: true})
	send := func(d hitkeepauth.Directory) (hitkeepauth.SyncResult, error) {
		return sync.Sync(t.Context(), func(context.Context) (hitkeepauth.Directory, error) { return d, nil })
	}
	if _, err := send(company(3)); err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	_, err := send(company(4))
	refused(t, err, "", http.StatusServiceUnavailable)
	proxy.Restore(d.Listen)
	var result hitkeepauth.SyncResult
	until(t, "the directory is sent", func() bool {
		result, err = send(company(4))
		return err == nil
	})
	if !result.Replaced || result.Changes != 4 {
		t.Fatalf("%+v", result)
	}
	if result, err = send(company(5)); err != nil || result.Replaced || result.Changes != 4 {
		t.Fatal(result, err)
	}
}
