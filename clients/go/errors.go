package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kind is where an Error comes from.
type Kind int

const (
	// KindConfiguration is an option or a file that can't be used: nobody was asked.
	KindConfiguration Kind = iota + 1
	// KindBroker is the broker's answer, or that there was none in time.
	KindBroker
	// KindRejected is the vault's API, which answered 401 to a new token as well.
	KindRejected
)

// FieldViolation is a field of the request that is at fault, and how.
type FieldViolation struct {
	Field       string
	Description string
}

// Error is why there is no token: the one type of all errors of this package, for errors.As. Must never hold a token, nor tell
// less than the broker said.
type Error struct {
	Kind Kind
	// Code is gRPC's.
	Code codes.Code
	// Reason is the broker's: decide by it, never by the text. Empty where no broker answered.
	Reason Reason
	// Message is for a person.
	Message string
	// RequestID is what the broker calls the call in its log.
	RequestID string
	// FieldViolations are the fields at fault where the reason is InvalidRequest.
	FieldViolations []FieldViolation
	// Metadata is what the broker says beside the reason.
	Metadata map[string]string

	retryAfter *time.Duration
	cause      error
}

// RetryAfter is how long to wait before trying again, where the broker says so.
func (e *Error) RetryAfter() (time.Duration, bool) {
	if e.retryAfter == nil {
		return 0, false
	}
	return *e.retryAfter, true
}

// HeldUntil is until when the broker does not try again by itself, where it says so.
func (e *Error) HeldUntil() (time.Time, bool) {
	until, err := time.Parse(time.RFC3339, e.Metadata["held_until"])
	return until, err == nil
}

// IsTemporary says whether a later call may fare better without anybody's help.
func (e *Error) IsTemporary() bool {
	if e.Kind != KindBroker {
		return false
	}
	if temporary, known := e.Reason.isTemporary(); known {
		return temporary
	}
	switch e.Code {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Aborted, codes.Canceled:
		return true
	default:
		return false
	}
}

// IsPermanent says whether no later call fares better until somebody has mended something: here, at the broker or at the vault.
func (e *Error) IsPermanent() bool { return !e.IsTemporary() }

// Unwrap is the cause, such as context.Canceled.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus has status.Code and the like work with this error.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Error()) }

// Error is the reason, the text (which names the fields at fault), what the broker says beside it, the wait and the request id,
// on one line.
func (e *Error) Error() string {
	var said strings.Builder
	said.WriteString("token broker: ")
	switch {
	case e.Reason != "":
		fmt.Fprintf(&said, "%s: ", e.Reason)
	case e.Kind == KindBroker:
		fmt.Fprintf(&said, "no answer of a broker (%v): ", e.Code)
	}
	said.WriteString(e.Message)
	names := make([]string, 0, len(e.Metadata))
	for name, value := range e.Metadata {
		if value != "" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(&said, "; %s %s", name, e.Metadata[name])
	}
	if wait, named := e.RetryAfter(); named {
		fmt.Fprintf(&said, "; try again in %v", wait)
	}
	if e.RequestID != "" {
		fmt.Fprintf(&said, "; request id %s", e.RequestID)
	}
	return onOneLine(said.String())
}

// configurationError names the option, the fault and the remedy.
func configurationError(option, fault, remedy string) *Error {
	message := fmt.Sprintf("option %s: %s: %s", option, fault, remedy)
	return &Error{Kind: KindConfiguration, Code: codes.FailedPrecondition, Message: message}
}

// unavailable is a failure of this side that passes.
func unavailable(message string) *Error {
	return &Error{Kind: KindBroker, Code: codes.Unavailable, Message: message}
}

// brokersFault is an answer that can't be: no repeat helps.
func brokersFault(message string) *Error {
	return &Error{Kind: KindBroker, Code: codes.Internal, Message: message}
}

// liveLonger is what to do where tokens end while they are on their way.
const liveLonger = ": see that the vault's tokens live longer than a call takes"

// closed is what everybody gets once the source is.
func closed() *Error {
	message := "the source is closed: make one for the whole life of the process"
	return &Error{Kind: KindBroker, Code: codes.Canceled, Message: message}
}

// gaveUp is for a caller who does not wait any longer, after so much time.
func gaveUp(cause error, waited time.Duration) *Error {
	code, message := codes.DeadlineExceeded, fmt.Sprintf("no token within %v", waited.Round(time.Millisecond))
	if errors.Is(cause, context.Canceled) {
		code, message = codes.Canceled, "the caller's context was cancelled"
	}
	return &Error{Kind: KindBroker, Code: code, Message: message, cause: cause}
}

// rejectedError is for a vault's API that refuses whatever token it is shown.
func rejectedError(why string) *Error {
	message := "the vault's API answers 401 to a new token as well: " + why
	return &Error{Kind: KindRejected, Code: codes.Unauthenticated, Message: message}
}

// errorOf is what a call's failure says.
func errorOf(failure error) *Error {
	var ours *Error
	if errors.As(failure, &ours) {
		return ours
	}
	failed := status.Convert(failure)
	parsed := &Error{Kind: KindBroker, Code: failed.Code(), Message: failed.Message()}
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == reasonDomain {
				parsed.Reason, parsed.Metadata = Reason(detail.GetReason()), detail.GetMetadata()
			}
		case *errdetails.RetryInfo:
			if wait, named := duration(detail.GetRetryDelay()); named {
				parsed.retryAfter = &wait
			}
		case *errdetails.RequestInfo:
			parsed.RequestID = detail.GetRequestId()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				field := FieldViolation{violation.GetField(), violation.GetDescription()}
				parsed.FieldViolations = append(parsed.FieldViolations, field)
			}
		}
	}
	return parsed
}
