package gvisor

import (
	"fmt"
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/sentry/platform"
)

const systrap = "systrap"

// gVisor sets this while it makes the platform, if the host's kernel can do it.
//
//go:linkname seccompNotifyIsSupported gvisor.dev/gvisor/pkg/sentry/platform/systrap.seccompNotifyIsSupported
var seccompNotifyIsSupported bool

// freezable makes platforms whose processes can be frozen.
//
// The guest's kernel has its guest's processes make system calls for it: map memory, say. It tells them by notifications of seccomp, or
// by a futex where the host knows no such notifications. A freezer wakes every process for a moment, as a signal would. That breaks off
// a notification, which is sent anew when the process thaws; but if the guest's kernel thaws first, it looks for the notification, finds
// none (ENOENT of SECCOMP_IOCTL_NOTIF_RECV, see seccomp_unotify(2)), and kills the process: seen once in some 2,500 freezes. A wait for a
// futex is restarted without a trace.
type freezable struct{ platform.Constructor }

// New implements platform.Constructor.
func (c freezable) New(opts platform.Options) (platform.Platform, error) {
	p, err := c.Constructor.New(opts)
	seccompNotifyIsSupported = false
	return p, err
}

// makeFreezable puts freezable in the place of the platform.
func makeFreezable() error {
	c, err := platform.Lookup(systrap)
	if err != nil {
		return fmt.Errorf("find platform: %w", err)
	}
	platform.Register(systrap, freezable{c})
	return nil
}
