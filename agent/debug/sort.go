// SPDX-License-Identifier: Apache-2.0

package debug

import (
	"cmp"
	"slices"
)

// SortPods orders pods by namespace, name and uid, in place, and returns them.
func SortPods(pods []Pod) []Pod {
	slices.SortFunc(pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return pods
}
