package hitkeepauth

import (
	"crypto/sha256"
	"hash/crc32"

	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/blake3"
)

const (
	// Of every token of the service: a prefix of four, a secret of 43 and a checksum of six
	// characters.
	tokenLength   = 53
	prefixLength  = 4
	checkedLength = 47
	// Of every token that HitKeep itself issued.
	legacyTokenLength = 64

	base62Digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// What a token is hashed for, so that its hash is worthless to any other program.
var tokenKey = blake3.ContextKey("auth.hitkeep.com 2026-11-23 token at rest v1")

// tokenHash is the stored form of a token: BLAKE3 for those of the service, SHA-256 for legacy
// ones. It is never printed.
type tokenHash [32]byte

func (tokenHash) String() string   { return "[the hash of a token]" }
func (tokenHash) GoString() string { return tokenHash{}.String() }

// tokenKind says what a text is that was presented as an API client's token.
type tokenKind uint8

const (
	// Nothing that can be the token of an API client, such as a service account's.
	foreignText tokenKind = iota
	// A well-formed token of the service.
	ownToken
	// A text with the form of a legacy token: one that HitKeep itself issued. It has no
	// checksum, so that it may be anything.
	legacyToken
)

// kindOf reads any text.
func kindOf(text string) tokenKind {
	switch len(text) {
	case tokenLength:
		prefix := text[:prefixLength]
		if (prefix == "hkp_" || prefix == "hkt_") && isBase62(text[prefixLength:checkedLength]) &&
			hasChecksum(text) {
			return ownToken
		}
	case legacyTokenLength:
		for i := range len(text) {
			if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return foreignText
			}
		}
		return legacyToken
	}
	return foreignText
}

// Without an early exit: which characters are letters is random, and so a branch that no
// processor predicts.
func isBase62(text string) bool {
	all := true
	for i := range len(text) {
		all = all && base62[text[i]]
	}
	return all
}

var base62 = func() (is [256]bool) {
	for _, c := range []byte(base62Digits) {
		is[c] = true
	}
	return is
}()

// hasChecksum reports whether a text ends with its checksum. The table is used by hand, since
// hash/crc32 would have a copy of the text allocated.
func hasChecksum(text string) bool {
	crc := ^uint32(0)
	for i := range checkedLength {
		crc = crc32.IEEETable[byte(crc)^text[i]] ^ crc>>8
	}
	crc = ^crc
	for i := tokenLength - 1; i >= checkedLength; i-- {
		if text[i] != base62Digits[crc%62] {
			return false
		}
		crc /= 62
	}
	return true
}

// hashOwn is the hash of a token of the service.
func hashOwn(text string) tokenHash {
	var block [blake3.BlockSize]byte
	return tokenKey.Sum(&block, copy(block[:], text))
}

// hashLegacy is the hash of a legacy token.
func hashLegacy(text string) tokenHash {
	var block [legacyTokenLength]byte
	copy(block[:], text)
	return sha256.Sum256(block[:])
}
