// Command conformance is the adapter through which tests/conformance drives the Go client, or with -raw the generated
// code alone. What it reads and writes is described in tests/conformance/README.md.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// command is a line of input; each has some of these fields.
type command struct {
	ID           int               `json:"id"`
	Do           string            `json:"do"`
	Client       string            `json:"client"`
	Target       string            `json:"target"`
	ResumePolicy *policy           `json:"resume_policy"`
	Method       string            `json:"method"`
	Request      json.RawMessage   `json:"request"`
	Timeout      *float64          `json:"timeout"`
	Batch        string            `json:"batch"`
	BatchID      string            `json:"batch_id"`
	After        int64             `json:"after"`
	Open         json.RawMessage   `json:"open"`
	Items        []json.RawMessage `json:"items"`
	More         bool              `json:"more"`
	Resume       *bool             `json:"resume"`
	Count        *int              `json:"count"`
	Stream       string            `json:"stream"`
	Frame        json.RawMessage   `json:"frame"`
}

// answer is what a line of output says beside its id.
type answer map[string]any

// adapter carries out commands, several at a time. An error that no user would get is a fault.
type adapter interface {
	hello() answer
	do(command command) (answer, error)
	// explain gives an error as the answer shows it; nil: it is a fault of the adapter.
	explain(err error) answer
}

func main() {
	raw := flag.Bool("raw", false, "drive the generated code alone")
	flag.Parse()
	var driven adapter = newClientAdapter()
	if *raw {
		driven = newRawAdapter()
	}
	if err := serve(driven, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve answers until the input ends.
func serve(driven adapter, input io.Reader, output io.Writer) error {
	var writing sync.Mutex
	for lines := bufio.NewReader(input); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var told command
		if err := json.Unmarshal(line, &told); err != nil {
			return fmt.Errorf("%w: %s", err, line)
		}
		go func() {
			said := answerTo(driven, told)
			said["id"] = told.ID
			written, err := json.Marshal(said)
			if err != nil {
				written = fmt.Appendf(nil, `{"id": %d, "fault": %q}`, told.ID, err)
			}
			writing.Lock()
			defer writing.Unlock()
			_, _ = output.Write(append(written, '\n')) // the runner is gone, and this ends with its input
		}()
	}
}

func answerTo(driven adapter, told command) answer {
	if told.Do == "hello" {
		return driven.hello()
	}
	said, err := driven.do(told)
	if said == nil {
		said = answer{}
	}
	if err != nil {
		if shown := driven.explain(err); shown != nil {
			said["error"] = shown
		} else {
			said["fault"] = err.Error()
		}
	}
	return said
}

// kept are things by the names that commands give them.
type kept[T any] struct {
	mu     sync.Mutex
	things map[string]T
}

func (k *kept[T]) put(name string, thing T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.things == nil {
		k.things = map[string]T{}
	}
	k.things[name] = thing
}

func (k *kept[T]) get(name string) (T, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	thing, known := k.things[name]
	if !known {
		return thing, fault{fmt.Errorf("nothing is named %q", name)}
	}
	return thing, nil
}

// fault is an error of this program's own.
type fault struct{ error }

// read makes a message of its JSON, or of none its default.
func read[M proto.Message](text json.RawMessage, message M) (M, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return message, nil
	}
	if err := protojson.Unmarshal(text, message); err != nil {
		return message, fault{err}
	}
	return message, nil
}

// shown is a message in an answer.
type shown struct{ proto.Message }

func (s shown) MarshalJSON() ([]byte, error) { return protojson.Marshal(s.Message) }

// codeName is the name of a status code in the protocol, which Go writes in its own way.
var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
	"UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}
