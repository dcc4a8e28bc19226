// A provider whose world is files: what a resource is can be looked at, changed and taken away beside Pulumi, and making it may be slow or
// fail. One resource, world:index:Thing, whose id is its path.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	pbempty "google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/pulumi/pulumi/pkg/v3/resource/provider"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
)

const (
	name    = "world"
	version = "1.0.0"
	schema  = `{
  "name": "world", "version": "1.0.0",
  "resources": {"world:index:Thing": {
    "inputProperties": {
      "path": {"type": "string"}, "content": {"type": "string"},
      "seconds": {"type": "number", "description": "how long it takes to make or change it"},
      "checking": {"type": "number", "description": "how many seconds it takes to look at what is wanted, in previews too"},
      "fail": {"type": "string", "description": "why it cannot be made or changed"}
    },
    "requiredInputs": ["path", "content"],
    "properties": {"path": {"type": "string"}, "content": {"type": "string"}, "size": {"type": "number"}},
    "required": ["path", "content", "size"]
  }}
}`
)

type world struct {
	pulumirpc.UnimplementedResourceProviderServer
	once      sync.Once
	cancelled chan struct{}
}

func main() {
	err := provider.Main(name, func(*provider.HostClient) (pulumirpc.ResourceProviderServer, error) {
		return &world{cancelled: make(chan struct{})}, nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (w *world) GetSchema(context.Context, *pulumirpc.GetSchemaRequest) (*pulumirpc.GetSchemaResponse, error) {
	return &pulumirpc.GetSchemaResponse{Schema: schema}, nil
}

func (w *world) GetPluginInfo(context.Context, *pbempty.Empty) (*pulumirpc.PluginInfo, error) {
	return &pulumirpc.PluginInfo{Version: version}, nil
}

func (w *world) CheckConfig(_ context.Context, r *pulumirpc.CheckRequest) (*pulumirpc.CheckResponse, error) {
	return &pulumirpc.CheckResponse{Inputs: r.News}, nil
}

func (w *world) DiffConfig(context.Context, *pulumirpc.DiffRequest) (*pulumirpc.DiffResponse, error) {
	return &pulumirpc.DiffResponse{}, nil
}

func (w *world) Configure(context.Context, *pulumirpc.ConfigureRequest) (*pulumirpc.ConfigureResponse, error) {
	return &pulumirpc.ConfigureResponse{SupportsPreview: true}, nil
}

func (w *world) Check(_ context.Context, r *pulumirpc.CheckRequest) (*pulumirpc.CheckResponse, error) {
	wanted := properties(r.News)
	if err := w.take(wanted, "checking", text(wanted, "path")+".looked"); err != nil {
		return nil, err
	}
	return &pulumirpc.CheckResponse{Inputs: r.News}, nil
}

func (w *world) Diff(_ context.Context, r *pulumirpc.DiffRequest) (*pulumirpc.DiffResponse, error) {
	// what is there may be another than what was asked for: it is compared with what is known of it
	olds, news := properties(r.Olds), properties(r.News)
	answer := &pulumirpc.DiffResponse{Changes: pulumirpc.DiffResponse_DIFF_NONE}
	for _, key := range []resource.PropertyKey{"path", "content"} {
		if !olds[key].DeepEquals(news[key]) {
			answer.Changes = pulumirpc.DiffResponse_DIFF_SOME
			answer.Diffs = append(answer.Diffs, string(key))
			if key == "path" {
				answer.Replaces = append(answer.Replaces, string(key))
			}
		}
	}
	return answer, nil
}

func (w *world) Create(_ context.Context, r *pulumirpc.CreateRequest) (*pulumirpc.CreateResponse, error) {
	made, err := w.put(r.Properties, r.Preview)
	if err != nil {
		return nil, err
	}
	return &pulumirpc.CreateResponse{Id: text(properties(r.Properties), "path"), Properties: made}, nil
}

func (w *world) Update(_ context.Context, r *pulumirpc.UpdateRequest) (*pulumirpc.UpdateResponse, error) {
	made, err := w.put(r.News, r.Preview)
	if err != nil {
		return nil, err
	}
	return &pulumirpc.UpdateResponse{Properties: made}, nil
}

func (w *world) Read(_ context.Context, r *pulumirpc.ReadRequest) (*pulumirpc.ReadResponse, error) {
	content, err := os.ReadFile(r.Id)
	if errors.Is(err, os.ErrNotExist) {
		return &pulumirpc.ReadResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	state := resource.PropertyMap{
		"path": resource.NewStringProperty(r.Id), "content": resource.NewStringProperty(string(content)),
		"size": resource.NewNumberProperty(float64(len(content))),
	}
	inputs := properties(r.Inputs).Copy()
	inputs["path"], inputs["content"] = state["path"], state["content"]
	return &pulumirpc.ReadResponse{Id: r.Id, Properties: packed(state), Inputs: packed(inputs)}, nil
}

func (w *world) Delete(_ context.Context, r *pulumirpc.DeleteRequest) (*pbempty.Empty, error) {
	if err := os.Remove(r.Id); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return &pbempty.Empty{}, nil
}

func (w *world) Cancel(context.Context, *pbempty.Empty) (*pbempty.Empty, error) {
	w.once.Do(func() { close(w.cancelled) })
	return &pbempty.Empty{}, nil
}

func (w *world) put(inputs *structpb.Struct, preview bool) (*structpb.Struct, error) {
	wanted := properties(inputs)
	state := resource.PropertyMap{"path": wanted["path"], "content": wanted["content"]}
	state["size"] = resource.MakeComputed(resource.NewNumberProperty(0))
	if preview {
		return packed(state), nil
	}
	path, content := text(wanted, "path"), text(wanted, "content")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := w.take(wanted, "seconds", path+".begun"); err != nil {
		return nil, err
	}
	if why := text(wanted, "fail"); why != "" {
		return nil, errors.New(why)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return nil, err
	}
	state["size"] = resource.NewNumberProperty(float64(len(content)))
	return packed(state), nil
}

// Takes as long as a thing says by that key, if it does. Whoever waits for it to be at work sees the file.
func (w *world) take(wanted resource.PropertyMap, key resource.PropertyKey, file string) error {
	seconds, ok := wanted[key]
	if !ok || !seconds.IsNumber() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	select {
	case <-time.After(time.Duration(seconds.NumberValue() * float64(time.Second))):
		return nil
	case <-w.cancelled:
		return errors.New("cancelled while it was at work")
	}
}

func properties(of *structpb.Struct) resource.PropertyMap {
	unpacked, err := plugin.UnmarshalProperties(of, plugin.MarshalOptions{KeepUnknowns: true, SkipNulls: true})
	if err != nil {
		return resource.PropertyMap{}
	}
	return unpacked
}

func packed(of resource.PropertyMap) *structpb.Struct {
	made, err := plugin.MarshalProperties(of, plugin.MarshalOptions{KeepUnknowns: true})
	if err != nil {
		return &structpb.Struct{}
	}
	return made
}

func text(of resource.PropertyMap, key resource.PropertyKey) string {
	if value := of[key]; value.IsString() {
		return value.StringValue()
	}
	return ""
}
