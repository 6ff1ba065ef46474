// SPDX-License-Identifier: Apache-2.0

package zds

import "strings"

// maxError leaves room in a packet for the fields around an error's text.
const maxError = MaxPacket - 64

// fit makes s valid text that fits into an ack, and never empty: that would mean success.
func fit(s string) string {
	if len(s) > maxError {
		s = s[:maxError]
	}
	if s = strings.ToValidUTF8(s, ""); s == "" {
		s = "failed without a reason"
	}
	return s
}
