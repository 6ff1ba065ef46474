// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// ending names how a connection ended.
func ending(err error) string {
	var dns *net.DNSError
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return answer.EOF
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return answer.Reset
	case errors.Is(err, syscall.ECONNREFUSED):
		return answer.Refused
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return answer.Denied
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return answer.Timeout
	case errors.As(err, &dns), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return answer.Unreachable
	}
	return answer.Other
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
