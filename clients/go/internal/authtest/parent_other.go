//go:build !linux

package authtest

import "os/exec"

func tieToParent(*exec.Cmd) {}
