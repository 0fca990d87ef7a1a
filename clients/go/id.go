package hitkeepauth

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
)

// ID is a UUID: of an API client, a user, a team (HitKeep's tenant) or a site. It
// converts to and from other packages' [16]byte, such as uuid.UUID(id). The zero
// ID means none.
type ID [16]byte

const idLength = 36

var errNotID = errors.New("hitkeepauth: not a UUID of 36 characters")

// ParseID reads a UUID of 36 characters, in either case. The zero UUID is refused,
// because it means none.
func ParseID(text string) (ID, error) {
	var id ID
	if len(text) != idLength {
		return ID{}, errNotID
	}
	digits := make([]byte, 0, 2*len(id))
	for i := range idLength {
		switch i {
		case 8, 13, 18, 23:
			if text[i] != '-' {
				return ID{}, errNotID
			}
		default:
			digits = append(digits, text[i])
		}
	}
	if _, err := hex.Decode(id[:], digits); err != nil || id.IsZero() {
		return ID{}, errNotID
	}
	return id, nil
}

// MustParseID is [ParseID] for constants. It panics if the text is no UUID.
func MustParseID(text string) ID {
	id, err := ParseID(text)
	if err != nil {
		panic(err)
	}
	return id
}

// String is the UUID in lower case; empty for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	var text [idLength]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// IsZero reports whether this is no ID.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]. An empty text is the zero ID.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// NewRequestID makes a random UUID (version 4), for a write that may be sent again.
func NewRequestID() ID {
	var id ID
	// It never fails: see crypto/rand.
	_, _ = rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}
