package authtest

import (
	"os/exec"
	"syscall"
)

// tieToParent lets a program end when the calling thread does.
func tieToParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
