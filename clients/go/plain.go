package tokenbroker

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
)

// onOneLine is text of others as it may be shown: nothing in it ends a line, steers a terminal or turns the direction of writing.
// What isn't plain is shown by its number, as JSON writes it. Must never leave anything out.
func onOneLine(text string) string {
	isPlain := func(r rune) bool { return unicode.IsPrint(r) && r != unicode.ReplacementChar }
	if strings.IndexFunc(text, func(r rune) bool { return !isPlain(r) }) < 0 {
		return text
	}
	var line strings.Builder
	for _, r := range text {
		if isPlain(r) {
			line.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&line, `\u%04x`, unit)
		}
	}
	return line.String()
}
