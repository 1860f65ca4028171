package artifact

import (
	"strconv"
	"strings"
)

// mountBelow returns a mount point below dir from the text of /proc/self/mountinfo, "" if there is none
// (proc_pid_mountinfo(5): the fifth field, in which special characters are written as octal escapes). dir itself may be a mount
// of its own.
func mountBelow(mountinfo, dir string) string {
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if point := unescape(fields[4]); strings.HasPrefix(point, strings.TrimSuffix(dir, "/")+"/") {
			return point
		}
	}
	return ""
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
