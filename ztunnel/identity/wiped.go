// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.runtimesecret

package identity

import "runtime/secret"

// wiped runs f. What f allocates is zeroed as soon as the collector frees it, what it leaves on stack and in registers
// before wiped returns.
func wiped(f func()) { secret.Do(f) }

const wipes = true
