#!/usr/bin/env bash
# msgspec: text that is no UTF-8, in MessagePack and in JSON, is a UnicodeDecodeError until 0.22.0 and a msgspec.DecodeError since
# 0.23.0. Neither is a kind of the other (both are ValueErrors), so code that caught what it saw lets the other one through: here a
# message of a stranger reached the handler of what should never happen. Who supports both catches both.
#
# Seen on 2026-11-29, Python 3.11.7:
#   0.22.0: msgpack UnicodeDecodeError, json UnicodeDecodeError
#   0.23.0: msgpack DecodeError, json DecodeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
told=()
for version in 0.22.0 0.23.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "msgspec==$version"
    told+=("$version: $("$folder/$version/bin/python" - <<'PYTHON'
import msgspec

errors = []
for name, decode, raw in (("msgpack", msgspec.msgpack.decode, b"\xa4caf\xe9"), ("json", msgspec.json.decode, b'"caf\xe9"')):
    try:
        decode(raw, type=str)
    except ValueError as error:
        errors.append(f"{name} {type(error).__name__}")
print(", ".join(errors))
PYTHON
)")
done
printf '%s\n' "${told[@]}"
[ "${told[0]}" = "0.22.0: msgpack UnicodeDecodeError, json UnicodeDecodeError" ]
[ "${told[1]}" = "0.23.0: msgpack DecodeError, json DecodeError" ]
