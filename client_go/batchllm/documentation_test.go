package batchllm

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"
)

// goRun runs a program in folder and gives what it prints. It is compiled first, which may take as long as it wants.
func goRun(t *testing.T, folder, target string, arguments ...string) string {
	t.Helper()
	program := exec.CommandContext(t.Context(), "go", append([]string{"run"}, arguments...)...)
	program.Dir = folder
	program.Env = append(os.Environ(), "BATCH_LLM_TARGET="+target)
	said, err := program.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return string(said)
}

func TestTheReadmesProgramRuns(t *testing.T) {
	_, running := echoing(t, "127.0.0.1:0")
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindSubmatch(readme)[1]
	here := filepath.Join(t.TempDir(), "main.go")
	text := strings.ReplaceAll(string(program), DefaultTarget, running.target)
	if err := os.WriteFile(here, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// It is laid over the module, for that is where its import is found, and nothing is written there.
	module, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(module, "readme", "main.go"): here}})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := goRun(t, module, running.target, "-overlay", overlayFile, "./readme"); !strings.Contains(said, "2 succeeded") {
		t.Error(said)
	}
}

func TestTheExampleRuns(t *testing.T) {
	client, running := echoing(t, "127.0.0.1:0")
	spec := &StrategySpec{Name: "triage", Provider: "simulated", CachedContent: []string{strings.Repeat("handbook ", 2000)}, CacheTtl: durationpb.New(3600e9)}
	if _, _, err := client.RegisterStrategy(within(t), spec); err != nil {
		t.Fatal(err)
	}
	said := goRun(t, "../../examples/go", running.target, ".")
	if !regexp.MustCompile(`T-048  simulated: .*(?s:.*)0 of 48 labels are right; [1-9]\d+ % of the input`).MatchString(said) {
		t.Error(said)
	}
	program := exec.CommandContext(within(t), "go", "run", ".", "no-such.jsonl")
	program.Dir = "../../examples/go"
	if said, err := program.CombinedOutput(); err == nil || !strings.Contains(string(said), "no-such.jsonl") {
		t.Error(string(said), err)
	}
}

// Every error that is exported stands in the README's table.
func TestTheReadmeListsAllErrors(t *testing.T) {
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\t(Err\w+) error =`).FindAllSubmatch(source, -1)
	if len(found) < 20 {
		t.Fatal(len(found))
	}
	for _, name := range found {
		if !strings.Contains(string(readme), "| `"+string(name[1])+"` |") {
			t.Errorf("the README's table lacks %s", name[1])
		}
	}
}
