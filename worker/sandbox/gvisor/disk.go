package gvisor

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// diskReserve is what the functions together must leave of the disk: without it nothing new could be deployed or started, by
	// anybody. The /tmp of all environments may add up to more than there is.
	diskReserve = 64 << 20
	// fillRate is faster, in bytes per second, than a function fills /tmp: it writes to memory first.
	fillRate = 4 << 30
	// crowd is the least that a /tmp holds whose sandbox is ended for a short disk: to end those that hold less would free nothing to
	// speak of, and the disk is short for another reason.
	crowd = 1 << 20
	// The disk is looked at again after at least guardPause, and when it cannot have been filled before after guardRest at most.
	guardPause = 10 * time.Millisecond
	guardRest  = time.Second
)

// adoptTmp keeps the file behind a guest's /tmp to see how large it grows, and removes its name: the guest's kernel has it open, so
// that the disk space is free as soon as that ends, however it ends.
func (l *launcher) adoptTmp(id, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.lives[id].tmp = f
	l.mu.Unlock()
	return os.Remove(path)
}

// guardDisk ends, until ctx does, the sandbox that holds most of the disk whenever less than diskReserve of it is free.
func (l *launcher) guardDisk(ctx context.Context) {
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		free, err := freeBytes(l.dir)
		if err != nil {
			free = diskReserve // nothing is known: look again soon
		}
		if free < diskReserve {
			l.endLargest()
		}
		look.Reset(untilFull(free))
	}
}

// untilFull is when a disk with that much free has to be looked at again.
func untilFull(free int64) time.Duration {
	return min(max(time.Duration(float64(free-diskReserve)/fillRate*float64(time.Second)), guardPause), guardRest)
}

// endLargest ends the sandbox whose /tmp holds most of the disk, if any holds much of it, and waits for its end.
func (l *launcher) endLargest() {
	l.mu.Lock()
	held := make(map[string]int64, len(l.lives))
	for id, life := range l.lives {
		held[id] = life.tmpBytes()
	}
	largest, ok := crowding(held)
	life := l.lives[largest]
	l.mu.Unlock()
	if !ok || l.tell(message{Kind: crowds, ID: largest}) != nil {
		return
	}
	select {
	case <-life.over:
	case <-time.After(endTimeout):
	}
}

// crowding is which sandbox of those that hold so many bytes of the disk has to end when that is short. ok is false if it is not theirs
// to make room.
func crowding(held map[string]int64) (id string, ok bool) {
	most := int64(crowd - 1)
	for each, bytes := range held {
		if bytes > most {
			id, most, ok = each, bytes, true
		}
	}
	return id, ok
}

// tmpBytes is how much of the disk the guest's /tmp takes.
func (l *life) tmpBytes() int64 {
	if l.tmp == nil {
		return 0
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(l.tmp.Fd()), &st); err != nil {
		return 0
	}
	return st.Blocks * 512
}

// freeBytes is how much may be written to the disk that holds dir.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("measure disk: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
