package blake3

import (
	"encoding/hex"
	"strings"
	"testing"
)

// From the test vectors of BLAKE3 itself (derive_key, the first 32 bytes); the input of each length
// are the bytes 0, 1, 2 and so on.
func TestTheOfficialVectors(t *testing.T) {
	key := ContextKey("BLAKE3 2019-12-27 16:29:52 test vectors context")
	for length, expected := range map[int]string{
		0: "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
		1: "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c",
		2: "1f166565a7df0098ee65922d7fea425fb18b9943f19d6161e2d17939356168e6",
		3: "440aba35cb006b61fc17c0529255de438efc06a8c9ebf3f2ddac3b5a86705797",
	} {
		var block [BlockSize]byte
		for i := range length {
			block[i] = byte(i)
		}
		hash := key.Sum(&block, length)
		if got := hex.EncodeToString(hash[:]); got != expected {
			t.Errorf("%d bytes: %s", length, got)
		}
	}
}

func TestALongContextIsRefused(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it was taken")
		}
	}()
	ContextKey(strings.Repeat("x", BlockSize+1))
}

func BenchmarkSum(b *testing.B) {
	key := ContextKey("a context")
	var block [BlockSize]byte
	b.ReportAllocs()
	for b.Loop() {
		key.Sum(&block, 53)
	}
}
