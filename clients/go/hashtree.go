package hitkeepauth

// hashTree is a persistent set of tokens by their hashes: a write copies the path to the leaf that
// it changes, so that readers share the rest, never see a change and need no lock. What a write
// costs does not depend on how many tokens there are.
//
// It has two levels with a fan-out of 256, and leaves below. Hashes are uniformly distributed,
// so that it is balanced, and a leaf has fewer than two tokens of a hundred thousand. The zero
// value is empty.
type hashTree struct {
	root *treeRoot
}

const fanOut = 256

type (
	treeRoot struct {
		edit     *treeEdit
		branches [fanOut]*treeBranch
	}
	treeBranch struct {
		edit *treeEdit
		// Each is replaced as a whole.
		leaves [fanOut][]tokenEntry
	}
	// treeEdit is one series of writes. What it has copied itself is in no other tree.
	treeEdit struct{ _ byte }
)

// tokenEntry is a token.
type tokenEntry struct {
	hash tokenHash
	// When its overlap ends, in microseconds since 1970; never for the newest one.
	end    int64
	client *indexedClient
}

// find looks for a token; nil if there is none.
func (t hashTree) find(hash *tokenHash) *tokenEntry {
	if t.root == nil {
		return nil
	}
	branch := t.root.branches[hash[0]]
	if branch == nil {
		return nil
	}
	leaf := branch.leaves[hash[1]]
	for i := range leaf {
		if leaf[i].hash == *hash {
			return &leaf[i]
		}
	}
	return nil
}

// put inserts or replaces a token. It reports whether there was none.
func (t *hashTree) put(edit *treeEdit, entry tokenEntry) bool {
	leaf := t.leaf(edit, &entry.hash)
	changed := make([]tokenEntry, 0, len(*leaf)+1)
	isNew := true
	for _, other := range *leaf {
		if other.hash == entry.hash {
			isNew = false
			continue
		}
		changed = append(changed, other)
	}
	*leaf = append(changed, entry)
	return isNew
}

// remove removes a token, unless it belongs to another client by now. It reports whether it did.
func (t *hashTree) remove(edit *treeEdit, hash *tokenHash, of ID) bool {
	if found := t.find(hash); found == nil || found.client.id != of {
		return false
	}
	leaf := t.leaf(edit, hash)
	changed := make([]tokenEntry, 0, len(*leaf)-1)
	for _, other := range *leaf {
		if other.hash != *hash {
			changed = append(changed, other)
		}
	}
	*leaf = changed
	return true
}

// leaf is one to be replaced. The nodes above it are copied, if others have seen them.
func (t *hashTree) leaf(edit *treeEdit, hash *tokenHash) *[]tokenEntry {
	switch {
	case t.root == nil:
		t.root = &treeRoot{edit: edit}
	case t.root.edit != edit:
		root := *t.root
		root.edit = edit
		t.root = &root
	}
	branch := t.root.branches[hash[0]]
	switch {
	case branch == nil:
		branch = &treeBranch{edit: edit}
	case branch.edit != edit:
		own := *branch
		own.edit = edit
		branch = &own
	}
	t.root.branches[hash[0]] = branch
	return &branch.leaves[hash[1]]
}
