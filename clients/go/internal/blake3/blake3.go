// Package blake3 hashes what fits into one block of BLAKE3, in its derive-key mode: all that it
// takes for tokens. It allocates nothing, and is no dependency of programs that use the client.
package blake3

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

const (
	// BlockSize is the most bytes that can be hashed.
	BlockSize = 64
	// Size is the length of a hash in bytes.
	Size = 32
)

// The flags of an only block, by the specification.
const (
	chunkStart = 1 << iota
	chunkEnd
	_
	root
	_
	deriveKeyContext
	deriveKeyMaterial

	whole = chunkStart | chunkEnd | root
)

var initial = Key{
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

// Key is what a context comes to.
type Key [8]uint32

// ContextKey is the key of a context, which names what hashes are for. It panics if the context is
// longer than a block.
func ContextKey(context string) Key {
	if len(context) > BlockSize {
		panic(fmt.Sprintf("blake3: a context of %d bytes", len(context)))
	}
	var block [BlockSize]byte
	return compress(&initial, &block, copy(block[:], context), whole|deriveKeyContext)
}

// Sum hashes the first bytes of a block, of which the rest has to be zero.
func (k *Key) Sum(block *[BlockSize]byte, length int) (hash [Size]byte) {
	for i, word := range compress(k, block, length, whole|deriveKeyMaterial) {
		binary.LittleEndian.PutUint32(hash[4*i:], word)
	}
	return hash
}

func compress(key *Key, block *[BlockSize]byte, length int, flags uint32) Key {
	var m [16]uint32
	for i := range m {
		m[i] = binary.LittleEndian.Uint32(block[4*i:])
	}
	a0, a1, a2, a3 := key[0], key[1], key[2], key[3]
	b0, b1, b2, b3 := key[4], key[5], key[6], key[7]
	c0, c1, c2, c3 := initial[0], initial[1], initial[2], initial[3]
	d0, d1, d2, d3 := uint32(0), uint32(0), uint32(length), flags
	// Written out, so that all indexes are constant: it takes half the time.
	// Each round takes the words in the order of the last one, permuted.
	a0, b0, c0, d0 = mix(a0, b0, c0, d0, m[0], m[1])
	a1, b1, c1, d1 = mix(a1, b1, c1, d1, m[2], m[3])
	a2, b2, c2, d2 = mix(a2, b2, c2, d2, m[4], m[5])
	a3, b3, c3, d3 = mix(a3, b3, c3, d3, m[6], m[7])
	a0, b1, c2, d3 = mix(a0, b1, c2, d3, m[8], m[9])
	a1, b2, c3, d0 = mix(a1, b2, c3, d0, m[10], m[11])
	a2, b3, c0, d1 = mix(a2, b3, c0, d1, m[12], m[13])
	a3, b0, c1, d2 = mix(a3, b0, c1, d2, m[14], m[15])

	a0, b0, c0, d0 = mix(a0, b0, c0, d0, m[2], m[6])
	a1, b1, c1, d1 = mix(a1, b1, c1, d1, m[3], m[10])
	a2, b2, c2, d2 = mix(a2, b2, c2, d2, m[7], m[0])
	a3, b3, c3, d3 = mix(a3, b3, c3, d3, m[4], m[13])
	a0, b1, c2, d3 = mix(a0, b1, c2, d3, m[1], m[11])
	a1, b2, c3, d0 = mix(a1, b2, c3, d0, m[12], m[5])
	a2, b3, c0, d1 = mix(a2, b3, c0, d1, m[9], m[14])
	a3, b0, c1, d2 = mix(a3, b0, c1, d2, m[15], m[8])

	a0, b0, c0, d0 = mix(a0, b0, c0, d0, m[3], m[4])
	a1, b1, c1, d1 = mix(a1, b1, c1, d1, m[10], m[12])
	a2, b2, c2, d2 = mix(a2, b2, c2, d2, m[13], m[2])
	a3, b3, c3, d3 = mix(a3, b3, c3, d3, m[7], m[14])
	a0, b1, c2, d3 = mix(a0, b1, c2, d3, m[6], m[5])
	a1, b2, c3, d0 = mix(a1, b2, c3, d0, m[9], m[0])
	a2, b3, c0, d1 = mix(a2, b3, c0, d1, m[11], m[15])
	a3, b0, c1, d2 = mix(a3, b0, c1, d2, m[8], m[1])

	a0, b0, c0, d0 = mix(a0, b0, c0, d0, m[10], m[7])
	a1, b1, c1, d1 = mix(a1, b1, c1, d1, m[12], m[9])
	a2, b2, c2, d2 = mix(a2, b2, c2, d2, m[14], m[3])
	a3, b3, c3, d3 = mix(a3, b3, c3, d3, m[13], m[15])
	a0, b1, c2, d3 = mix(a0, b1, c2, d3, m[4], m[0])
	a1, b2, c3, d0 = mix(a1, b2, c3, d0, m[11], m[2])
	a2, b3, c0, d1 = mix(a2, b3, c0, d1, m[5], m[8])
	a3, b0, c1, d2 = mix(a3, b0, c1, d2, m[1], m[6])

	a0, b0, c0, d0 = mix(a0, b0, c0, d0, m[12], m[13])
	a1, b1, c1, d1 = mix(a1, b1, c1, d1, m[9], m[11])
	a2, b2, c2, d2 = mix(a2, b2, c2, d2, m[15], m[10])
	a3, b3, c3, d3 = mix(a3, b3, c3, d3, m[14], m[8])
	a0, b1, c2, d3 = mix(a0, b1, c2, d3, m[7], m[2])
	a1, b2, c3, d0 = mix(a1, b2, c3, d0, m[5], m[3])
	a2, b3, c0, d1 = mix(a2, b3, c0, d1, m[0], m[1])
	a3, b0, c1, d2 = mix(a3, b0, c1, d2, m[6], m[4])

	a0, b0, c0, d0 = mix(a0, b0, c0, d0, m[9], m[14])
	a1, b1, c1, d1 = mix(a1, b1, c1, d1, m[11], m[5])
	a2, b2, c2, d2 = mix(a2, b2, c2, d2, m[8], m[12])
	a3, b3, c3, d3 = mix(a3, b3, c3, d3, m[15], m[1])
	a0, b1, c2, d3 = mix(a0, b1, c2, d3, m[13], m[3])
	a1, b2, c3, d0 = mix(a1, b2, c3, d0, m[0], m[10])
	a2, b3, c0, d1 = mix(a2, b3, c0, d1, m[2], m[6])
	a3, b0, c1, d2 = mix(a3, b0, c1, d2, m[4], m[7])

	a0, b0, c0, d0 = mix(a0, b0, c0, d0, m[11], m[15])
	a1, b1, c1, d1 = mix(a1, b1, c1, d1, m[5], m[0])
	a2, b2, c2, d2 = mix(a2, b2, c2, d2, m[1], m[9])
	a3, b3, c3, d3 = mix(a3, b3, c3, d3, m[8], m[6])
	a0, b1, c2, d3 = mix(a0, b1, c2, d3, m[14], m[10])
	a1, b2, c3, d0 = mix(a1, b2, c3, d0, m[2], m[12])
	a2, b3, c0, d1 = mix(a2, b3, c0, d1, m[3], m[4])
	a3, b0, c1, d2 = mix(a3, b0, c1, d2, m[7], m[13])

	return Key{a0 ^ c0, a1 ^ c1, a2 ^ c2, a3 ^ c3, b0 ^ d0, b1 ^ d1, b2 ^ d2, b3 ^ d3}
}

func mix(a, b, c, d, x, y uint32) (uint32, uint32, uint32, uint32) {
	a += b + x
	d = bits.RotateLeft32(d^a, -16)
	c += d
	b = bits.RotateLeft32(b^c, -12)
	a += b + y
	d = bits.RotateLeft32(d^a, -8)
	c += d
	b = bits.RotateLeft32(b^c, -7)
	return a, b, c, d
}
