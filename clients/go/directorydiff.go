package hitkeepauth

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// entryKind orders the entries of a directory so that each comes after what it refers to.
type entryKind int

const (
	userEntry entryKind = iota
	teamEntry
	siteEntry
	teamMemberEntry
	siteMemberEntry
)

// entryKey names an entry of a directory: memberships have two ids.
type entryKey struct {
	kind       entryKind
	id, member ID
}

func (k entryKey) compare(other entryKey) int {
	if k.kind != other.kind {
		return int(k.kind - other.kind)
	}
	if order := bytes.Compare(k.id[:], other.id[:]); order != 0 {
		return order
	}
	return bytes.Compare(k.member[:], other.member[:])
}

// entries is a directory by name. The values are comparable: User, Team and so on.
type entries map[entryKey]any

func (d Directory) entries() (entries, error) {
	all := make(entries, len(d.Users)+len(d.Teams)+len(d.TeamMembers)+len(d.Sites)+len(d.SiteMembers))
	var flaw error
	add := func(key entryKey, value any) {
		if _, twice := all[key]; twice && flaw == nil {
			flaw = fmt.Errorf("the directory has %+v twice", value)
		}
		all[key] = value
	}
	for _, u := range d.Users {
		add(entryKey{kind: userEntry, id: u.ID}, u)
	}
	for _, t := range d.Teams {
		add(entryKey{kind: teamEntry, id: t.ID}, t)
	}
	for _, s := range d.Sites {
		add(entryKey{kind: siteEntry, id: s.ID}, s)
	}
	for _, m := range d.TeamMembers {
		add(entryKey{kind: teamMemberEntry, id: m.TeamID, member: m.UserID}, m)
	}
	for _, m := range d.SiteMembers {
		add(entryKey{kind: siteMemberEntry, id: m.SiteID, member: m.UserID}, m)
	}
	return all, flaw
}

// counted reports whether the service has as many as are known.
func (e entries) counted(status *pb.GetDirectoryStatusResponse) bool {
	var counts [siteMemberEntry + 1]int
	for key := range e {
		counts[key.kind]++
	}
	return int(status.GetUsers()) == counts[userEntry] && int(status.GetTeams()) == counts[teamEntry] &&
		int(status.GetSites()) == counts[siteEntry] &&
		int(status.GetMemberships()) == counts[teamMemberEntry]+counts[siteMemberEntry]
}

// removesMost reports whether the next entries lack more than half of these users, teams or
// sites: the service's own rule for replacements.
func (e entries) removesMost(next entries) bool {
	var known, removed [siteMemberEntry + 1]int
	for key := range e {
		known[key.kind]++
		if _, stays := next[key]; !stays {
			removed[key.kind]++
		}
	}
	most := func(kind entryKind) bool { return removed[kind] > known[kind]/2 }
	return most(userEntry) || most(teamEntry) || most(siteEntry)
}

// changes make the next entries of these, in an order in which each change refers only to what
// is there: first all puts, so that a site has moved before its team is removed and takes
// its sites along; then all removals, in the opposite order.
func (e entries) changes(next entries) []*pb.DirectoryChange {
	var changes []*pb.DirectoryChange
	for _, key := range slices.SortedFunc(maps.Keys(next), entryKey.compare) {
		if e[key] != next[key] {
			changes = append(changes, put(next[key]))
		}
	}
	removed := slices.SortedFunc(maps.Keys(e), entryKey.compare)
	for _, key := range slices.Backward(removed) {
		if _, stays := next[key]; !stays {
			changes = append(changes, key.remove())
		}
	}
	return changes
}

func put(value any) *pb.DirectoryChange {
	change := &pb.DirectoryChange{}
	switch value := value.(type) {
	case User:
		change.Change = &pb.DirectoryChange_PutUser{PutUser: value.wire()}
	case Team:
		change.Change = &pb.DirectoryChange_PutTeam{PutTeam: value.wire()}
	case TeamMember:
		change.Change = &pb.DirectoryChange_PutTeamMember{PutTeamMember: value.wire()}
	case Site:
		change.Change = &pb.DirectoryChange_PutSite{PutSite: value.wire()}
	case SiteMember:
		change.Change = &pb.DirectoryChange_PutSiteMember{PutSiteMember: value.wire()}
	}
	return change
}

func (k entryKey) remove() *pb.DirectoryChange {
	id, member := k.id.String(), k.member.String()
	change := &pb.DirectoryChange{}
	switch k.kind {
	case userEntry:
		change.Change = &pb.DirectoryChange_DeleteUser{DeleteUser: &pb.UserRef{Id: id}}
	case teamEntry:
		change.Change = &pb.DirectoryChange_DeleteTeam{DeleteTeam: &pb.TeamRef{Id: id}}
	case siteEntry:
		change.Change = &pb.DirectoryChange_DeleteSite{DeleteSite: &pb.SiteRef{Id: id}}
	case teamMemberEntry:
		change.Change = &pb.DirectoryChange_DeleteTeamMember{
			DeleteTeamMember: &pb.TeamMemberRef{TeamId: id, UserId: member},
		}
	case siteMemberEntry:
		change.Change = &pb.DirectoryChange_DeleteSiteMember{
			DeleteSiteMember: &pb.SiteMemberRef{SiteId: id, UserId: member},
		}
	}
	return change
}

func (u User) wire() *pb.User {
	return &pb.User{Id: u.ID.String(), InstanceRole: u.InstanceRole.wire(), Disabled: u.Disabled}
}

func (t Team) wire() *pb.Team { return &pb.Team{Id: t.ID.String(), Archived: t.Archived} }

func (m TeamMember) wire() *pb.TeamMember {
	return &pb.TeamMember{TeamId: m.TeamID.String(), UserId: m.UserID.String(), Role: m.Role.wire()}
}

func (s Site) wire() *pb.Site { return &pb.Site{Id: s.ID.String(), TeamId: s.TeamID.String()} }

func (m SiteMember) wire() *pb.SiteMember {
	return &pb.SiteMember{SiteId: m.SiteID.String(), UserId: m.UserID.String(), Role: m.Role.wire()}
}
