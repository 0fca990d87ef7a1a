package hitkeepauth

import (
	"math"
	"net/netip"
	"slices"
)

// Times of the index are in microseconds since 1970, by the service's database: that is the
// resolution of every expiry.
const (
	always = math.MinInt64
	never  = math.MaxInt64
)

// position is a revision in one history of one database.
type position struct {
	database ID
	revision uint64
	nonce    ID
}

// index is one version of what the service knows about tokens. It never changes.
type index struct {
	position position
	own      hashTree
	legacy   hashTree
	// How many legacy tokens there are. Without any, none has to be hashed.
	legacyTokens int
	clients      int
}

// indexedClient is an API client with all that does not depend on the time.
type indexedClient struct {
	id ID
	// Otherwise something of it cannot be read, or has to be enforced in a way that this version does
	// not know. Its tokens are not judged.
	readable bool
	usage    usageSlot
	settledClient
	tokens []clientToken
}

// settledClient is what its tokens may do.
type settledClient struct {
	// Apart from the revision. It is copied for each answer.
	principal Principal
	state     baseState
	expires   int64
	begins    int64
	// From where its tokens work; none: from everywhere.
	ranges []netip.Prefix
}

// baseState is the state of a client apart from its expiry.
type baseState uint8

const (
	stateActive baseState = iota
	stateRevoked
	stateOwnerInactive
)

type clientToken struct {
	hash   tokenHash
	legacy bool
	// As of [tokenEntry].
	end int64
}

// judge is why a token does not work at that time for a request from there; empty: it works. The
// limit is when all tokens of its kind end. The first reason that applies counts, in the
// service's own order.
func (c *settledClient) judge(end, limit int64, from netip.Addr, now int64) InactiveReason {
	switch {
	case end <= now:
		return ReasonTokenRotated
	case c.state == stateRevoked:
		return ReasonRevoked
	case min(c.expires, limit) <= now:
		return ReasonExpired
	case c.state != stateActive:
		return ReasonOwnerInactive
	case c.begins > now:
		return ReasonNotYetActive
	case len(c.ranges) > 0 && !slices.ContainsFunc(c.ranges, func(p netip.Prefix) bool { return p.Contains(from) }):
		return ReasonSourceNotAllowed
	}
	return ""
}

// indexWriter makes versions of an index, one after the other.
type indexWriter struct {
	index
	byID map[ID]*indexedClient
	edit *treeEdit
}

func newIndexWriter(clients int) *indexWriter {
	return &indexWriter{byID: make(map[ID]*indexedClient, clients), edit: &treeEdit{}}
}

// version is the state as it is now.
func (w *indexWriter) version(at position) *index {
	version := w.index
	version.position = at
	version.clients = len(w.byID)
	// What it shares is copied from now on.
	w.edit = &treeEdit{}
	return &version
}

// put inserts or replaces a client with all its tokens.
func (w *indexWriter) put(client *indexedClient) {
	if old := w.byID[client.id]; old != nil {
		client.usage.follow(&old.usage)
		w.removeTokens(old)
	}
	w.byID[client.id] = client
	for _, token := range client.tokens {
		entry := tokenEntry{hash: token.hash, end: token.end, client: client}
		if !token.legacy {
			w.own.put(w.edit, entry)
		} else if w.legacy.put(w.edit, entry) {
			w.legacyTokens++
		}
	}
}

// remove removes a client with all its tokens.
func (w *indexWriter) remove(id ID) {
	if old := w.byID[id]; old != nil {
		delete(w.byID, id)
		w.removeTokens(old)
	}
}

func (w *indexWriter) removeTokens(of *indexedClient) {
	for i := range of.tokens {
		hash := &of.tokens[i].hash
		if !of.tokens[i].legacy {
			w.own.remove(w.edit, hash, of.id)
		} else if w.legacy.remove(w.edit, hash, of.id) {
			w.legacyTokens--
		}
	}
}
