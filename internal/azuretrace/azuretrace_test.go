package azuretrace

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.csv")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const invocations = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f,http,1,0,2\no,b,g,timer,0,0,7\n"

func TestATraceIsRead(t *testing.T) {
	durations := "HashOwner,HashApp,HashFunction,Average,Count\no,a,f,250.5,3\n"
	for name, c := range map[string]struct {
		files Files
		want  []Function
	}{
		"invocations alone": {Files{}, []Function{{Calls: []int{1, 0, 2}}, {Calls: []int{0, 0, 7}}}},
		"memory of functions": {
			Files{Durations: write(t, durations), Memory: write(t, "HashFunction,HashApp,AverageAllocatedMb\nf,a,120.5\ng,b,64\n")},
			[]Function{{[]int{1, 0, 2}, 250500 * time.Microsecond, 120}, {[]int{0, 0, 7}, 0, 64}},
		},
		"memory of applications": {
			Files{Memory: write(t, "HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,b,5,77\n")},
			[]Function{{Calls: []int{1, 0, 2}}, {[]int{0, 0, 7}, 0, 77}},
		},
	} {
		c.files.Invocations = write(t, invocations)
		got, err := Read(c.files)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestWhatIsNoTraceIsRefused(t *testing.T) {
	good := write(t, invocations)
	for name, c := range map[string]struct {
		files Files
		want  string
	}{
		"nothing":             {Files{Invocations: filepath.Join(t.TempDir(), "none")}, "no such file"},
		"empty":               {Files{Invocations: write(t, "")}, "EOF"},
		"another table":       {Files{Invocations: write(t, "A,B\n1,2\n")}, "column HashFunction"},
		"no number":           {Files{Invocations: write(t, "HashApp,HashFunction,1\na,f,x\n")}, "line 2: minute 1"},
		"less than nothing":   {Files{Invocations: write(t, "HashApp,HashFunction,1\na,f,-1\n")}, "minute 1"},
		"a short line":        {Files{Invocations: write(t, "HashApp,HashFunction,1\na,f\n")}, "wrong number of fields"},
		"no duration":         {Files{Invocations: good, Durations: write(t, "HashFunction,Average\nf,NaN\n")}, `Average "NaN"`},
		"too much memory":     {Files{Invocations: good, Memory: write(t, "HashFunction,AverageAllocatedMb\nf,1e300\n")}, "AverageAllocatedMb"},
		"memory of nobody":    {Files{Invocations: good, Memory: write(t, "AverageAllocatedMb\n1\n")}, "column HashApp"},
		"no memory in memory": {Files{Invocations: good, Memory: write(t, "HashFunction,X\nf,1\n")}, "no such column"},
	} {
		if _, err := Read(c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
