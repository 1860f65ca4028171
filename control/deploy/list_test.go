package deploy

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"

	"kiln"
	"kiln/api"
)

// listAll follows the markers of ListFunctions to the end, and returns the names with versions, and how many pages there were.
func (n *node) listAll(in api.ListFunctionsRequest) (names []string, pages int) {
	n.Helper()
	for {
		out := must(call[api.ListFunctionsRequest, api.ListFunctionsResponse](n, api.ListFunctions, in))
		pages++
		for _, f := range out.Functions {
			names = append(names, *f.FunctionName+":"+*f.Version)
		}
		if out.NextMarker == nil {
			return names, pages
		}
		in.Marker = out.NextMarker
	}
}

func TestListsOfFunctionsAreWholeWhateverThePage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		var latest, all []string
		for i := range 60 {
			name := fmt.Sprintf("f%02d", i)
			latest, all = append(latest, name+":$LATEST"), append(all, name+":$LATEST")
			if i%3 == 0 {
				_ = must(n.create(name, withPublish))
				all = append(all, name+":1")
				continue
			}
			_ = must(n.create(name))
		}
		n.settleDown()
		for v := 2; v <= 12; v++ {
			_ = must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f30"), Description: new(strconv.Itoa(v))}))
			n.settleDown()
			_ = must(n.publish(api.PublishVersionRequest{FunctionName: new("f30")}))
			all = slices.Insert(all, slices.Index(all, "f30:"+strconv.Itoa(v-1))+1, "f30:"+strconv.Itoa(v))
		}
		for _, size := range []int32{1, 2, 3, 7, 49, 50, 51, 10000} {
			n.wantList(api.ListFunctionsRequest{MaxItems: &size}, latest, int(size))
			n.wantList(api.ListFunctionsRequest{MaxItems: &size, FunctionVersion: new("ALL")}, all, int(size))
		}
		n.wantList(api.ListFunctionsRequest{}, latest, 50)
		n.wantList(api.ListFunctionsRequest{MasterRegion: new("ALL")}, latest, 50)
		n.wantList(api.ListFunctionsRequest{MasterRegion: new("us-east-1")}, latest, 50)
		n.wantList(api.ListFunctionsRequest{MasterRegion: new("eu-west-1")}, nil, 50)
	})
}

func (n *node) wantList(in api.ListFunctionsRequest, want []string, size int) {
	n.Helper()
	got, pages := n.listAll(in)
	if !slices.Equal(got, want) {
		n.Errorf("pages of %d list %v, want %v", size, got, want)
	}
	if least := max(1, (len(want)+min(size, maxPage)-1)/min(size, maxPage)); pages != least {
		n.Errorf("%d items came in %d pages of %d, want %d", len(want), pages, size, least)
	}
}

func TestListsOfVersionsFollowTheirNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f", withPublish))
		n.settleDown()
		want := []string{"$LATEST", "1"}
		for v := 2; v <= 11; v++ {
			_ = must(n.configure(api.UpdateFunctionConfigurationRequest{FunctionName: new("f"), Description: new(strconv.Itoa(v))}))
			n.settleDown()
			_ = must(n.publish(api.PublishVersionRequest{FunctionName: new("f")}))
			want = append(want, strconv.Itoa(v))
		}
		for _, size := range []int32{1, 4, 12, 50} {
			var got []string
			in := api.ListVersionsByFunctionRequest{FunctionName: new("f"), MaxItems: &size}
			for {
				out := must(call[api.ListVersionsByFunctionRequest, api.ListVersionsByFunctionResponse](n, api.ListVersionsByFunction, in))
				for _, v := range out.Versions {
					got = append(got, *v.Version)
				}
				if in.Marker = out.NextMarker; in.Marker == nil {
					break
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("pages of %d list %v, want %v", size, got, want)
			}
		}
	})
}

func TestListsGoOnAfterAFunctionIsDeletedInTheirMidst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		for _, name := range []string{"a", "b", "c"} {
			_ = must(n.create(name, withPublish))
		}
		n.settleDown()
		in := api.ListFunctionsRequest{MaxItems: new(int32(3)), FunctionVersion: new("ALL")} // ends at b:$LATEST
		out := must(call[api.ListFunctionsRequest, api.ListFunctionsResponse](n, api.ListFunctions, in))
		if err := n.delete("b", ""); err != nil {
			t.Fatal(err)
		}
		in.Marker = out.NextMarker
		if got, _ := n.listAll(in); !slices.Equal(got, []string{"c:$LATEST", "c:1"}) {
			t.Errorf("the list goes on with %v", got)
		}
	})
}

func TestListsRefuseWhatTheyCannotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		const one = "1 validation error detected: "
		for _, tt := range []struct {
			in   api.ListFunctionsRequest
			kind kiln.Kind
			want string
		}{
			{api.ListFunctionsRequest{FunctionVersion: new("invalid")}, kiln.Validation,
				one + "Value 'invalid' at 'functionVersion' failed to satisfy constraint: Member must satisfy enum value set: [ALL]"},
			{api.ListFunctionsRequest{MaxItems: new(int32(0))}, kiln.Validation,
				one + "Value '0' at 'maxItems' failed to satisfy constraint: Member must have value greater than or equal to 1"},
			{api.ListFunctionsRequest{Marker: new("no marker")}, kiln.InvalidParameterValue, "Invalid marker: no marker"},
			{api.ListFunctionsRequest{Marker: new(marker{Function: "../x"}.String())}, kiln.InvalidParameterValue, "Invalid marker: " + marker{Function: "../x"}.String()},
			{api.ListFunctionsRequest{Marker: new(marker{Function: "f", After: -1}.String())}, kiln.InvalidParameterValue,
				"Invalid marker: " + marker{Function: "f", After: -1}.String()},
		} {
			_, err := call[api.ListFunctionsRequest, api.ListFunctionsResponse](n, api.ListFunctions, tt.in)
			n.wantError(err, tt.kind, tt.want)
		}
		_, err := call[api.ListVersionsByFunctionRequest, api.ListVersionsByFunctionResponse](n, api.ListVersionsByFunction,
			api.ListVersionsByFunctionRequest{FunctionName: new("*"), MaxItems: new(int32(10001))})
		n.wantError(err, kiln.Validation, "2 validation errors detected: Value '*' at 'functionName' failed to satisfy constraint: "+
			`Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?; `+
			"Value '10001' at 'maxItems' failed to satisfy constraint: Member must have value less than or equal to 10000")
		other := marker{Function: "other", Versions: true}.String()
		_, err = call[api.ListVersionsByFunctionRequest, api.ListVersionsByFunctionResponse](n, api.ListVersionsByFunction,
			api.ListVersionsByFunctionRequest{FunctionName: new("f"), Marker: &other})
		n.wantError(err, kiln.InvalidParameterValue, "Invalid marker: "+other)
	})
}
