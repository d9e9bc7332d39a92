{{/* What the broker takes: the ranges of files/ranges.yaml. */}}

{{/* A duration as the broker reads it, such as "1h 30m", in milliseconds. */}}
{{- define "token-broker.millis" -}}
{{- $units := dict "ms" 1 "s" 1000 "sec" 1000 "secs" 1000 "second" 1000 "seconds" 1000
      "m" 60000 "min" 60000 "mins" 60000 "minute" 60000 "minutes" 60000
      "h" 3600000 "hr" 3600000 "hrs" 3600000 "hour" 3600000 "hours" 3600000
      "d" 86400000 "day" 86400000 "days" 86400000 "week" 604800000 "weeks" 604800000 }}
{{- $sum := 0 }}
{{- range regexFindAll "[0-9]+ *[a-z]+" . -1 }}
{{- /* A number that begins with 0 would be an octal one. */}}
{{- $number := regexReplaceAll "^0+([0-9])" (regexFind "[0-9]+" .) "${1}" | int64 }}
{{- $sum = add $sum (mul $number (get $units (regexFind "[a-z]+" .))) }}
{{- end }}
{{- $sum }}
{{- end }}

{{/* What is at fault with the values' durations and headers, as a JSON list. */}}
{{- define "token-broker.outOfRange" -}}
{{- $faults := list }}
{{- $ranges := .Files.Get "files/ranges.yaml" | fromYaml }}
{{- range $value, $range := $ranges.durations }}
{{- $path := splitList "." $value }}
{{- $given := get (get $.Values (first $path)) (last $path) }}
{{- $millis := include "token-broker.millis" $given | int64 }}
{{- if or (lt $millis (include "token-broker.millis" $range.least | int64)) (gt $millis (include "token-broker.millis" $range.most | int64)) }}
{{- $faults = append $faults (printf "%s is %s, which the broker refuses: give a duration from %s to %s" $value $given $range.least $range.most) }}
{{- end }}
{{- end }}
{{- $seen := list }}
{{- range $name, $_ := .Values.vault.headers }}
{{- $lower := lower $name }}
{{- if has $lower $ranges.reservedHeaders }}
{{- $faults = append $faults (printf "vault.headers has %q, which the broker sets itself: remove it" $name) }}
{{- end }}
{{- if regexMatch $ranges.secretHeaders $lower }}
{{- $faults = append $faults (printf "vault.headers has %q, which sounds like a secret, and everybody who reads ConfigMaps would have it: remove it" $name) }}
{{- end }}
{{- if has $lower $seen }}
{{- $faults = append $faults (printf "vault.headers has %q twice, since upper and lower case don't matter: remove one" $name) }}
{{- end }}
{{- $seen = append $seen $lower }}
{{- end }}
{{- toJson $faults }}
{{- end }}
