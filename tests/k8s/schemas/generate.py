"""JSON schemas of custom resources, from the types in the npm packages of @kubernetes-models.

    npm install @kubernetes-models/gateway-api@2.0.0 @kubernetes-models/keda@2.0.0 \
        @kubernetes-models/prometheus-operator@6.0.0
    python tests/k8s/schemas/generate.py node_modules

Those are generated from the Go types of each project. A field that a type does not have is an error
here, as it would be to an API server that validates strictly.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

OPERATOR = "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1"
RESOURCES = {
    "HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
    "PodMonitor": f"{OPERATOR}/PodMonitor",
    "PrometheusRule": f"{OPERATOR}/PrometheusRule",
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
}
SCALARS = {name: {"type": name} for name in ("string", "number", "boolean")}

_IMPORT = re.compile(r'import \{ (\w+) \} from "([^"]+)"')
_INTERFACE = re.compile(r"export interface \w+(?: extends ([\w, ]+))? \{\n(.*?)\n\}", re.DOTALL)
_FIELD = re.compile(r'^    "(\w+)"(\??): (.*?);$', re.DOTALL | re.MULTILINE)
_ALIAS = re.compile(r"export type I\w+ = (.+);")
_PATTERN = re.compile(r'RegExp\("((?:[^"\\]|\\.)*)","u"\)')


class Types:
    """The declarations below ``node_modules``, as definitions of one schema."""

    def __init__(self, node_modules: Path) -> None:
        self._root = node_modules
        self.definitions: dict[str, Any] = {}

    def reference(self, path: Path) -> dict[str, Any]:
        """To the type declared in ``path``, without suffix."""
        name = path.name
        if name == "ObjectMeta":
            return {"type": "object"}
        if name not in self.definitions:
            self.definitions[name] = {}  # it may refer to itself
            self.definitions[name] = self._declared(path)
        return {"$ref": f"#/definitions/{name}"}

    def _declared(self, path: Path) -> dict[str, Any]:
        text = re.sub(r"/\*.*?\*/", "", path.with_suffix(".d.ts").read_text(), flags=re.DOTALL)
        imports = {name: self._resolve(path, source) for name, source in _IMPORT.findall(text)}
        found = _INTERFACE.search(text)
        if found is None:
            return {**self._type(_ALIAS.findall(text)[0], imports), **self._pattern(path)}
        schema = self._object(found[2], imports)
        for parent in filter(None, map(str.strip, (found[1] or "").split(","))):
            if parent in imports:
                inherited = self._declared(imports[parent])
                schema["properties"] |= inherited["properties"]
                schema["required"] += inherited["required"]
        return schema

    def _object(self, body: str, imports: dict[str, Path]) -> dict[str, Any]:
        fields = _FIELD.findall(body)
        return {
            "type": "object",
            "properties": {
                name: self._type(type_, imports) for name, _, type_ in fields if name != "status"
            },
            "required": [name for name, optional, _ in fields if not optional],
            "additionalProperties": False,
        }

    def _type(self, text: str, imports: dict[str, Path]) -> dict[str, Any]:
        if text in SCALARS:
            return SCALARS[text]
        if text in imports:
            return self.reference(imports[text])
        if text.startswith("Array<"):
            return {"type": "array", "items": self._type(text[len("Array<") : -1], imports)}
        if mapped := re.search(r"\[key: string\]: ([\w<>]+)", text):
            return {"type": "object", "additionalProperties": self._type(mapped[1], imports)}
        parts = text.split(" | ")
        if set(parts) <= set(SCALARS):
            return {"type": parts}
        try:  # "Exact" | "PathPrefix", 301 | 302
            return {"enum": [json.loads(value) for value in parts]}
        except ValueError:
            raise ValueError(f"a type that is not understood: {text}") from None

    def _pattern(self, path: Path) -> dict[str, str]:
        """What a string must match, which only the package's validator says."""
        package = next(p for p in path.parents if (p / "_schemas").is_dir())
        (validator,) = (package / "_schemas").glob(f"*{_group(path)}{path.name}.js")
        found = _PATTERN.findall(validator.read_text())
        return {"pattern": json.loads(f'"{found[0]}"')} if found else {}

    def _resolve(self, path: Path, source: str) -> Path:
        base = path.parent if source.startswith(".") else self._root
        return (base / source.removesuffix(".js")).resolve()


def _group(path: Path) -> str:
    return path.parent.name.capitalize()


def main() -> None:
    """Write one file for each of ``RESOURCES`` beside this one."""
    for kind, source in RESOURCES.items():
        types = Types(Path(sys.argv[1]).resolve())
        root = types.reference(Path(sys.argv[1]).resolve() / source)
        schema = {**root, "definitions": dict(sorted(types.definitions.items()))}
        target = Path(__file__).parent / f"{kind.lower()}.json"
        target.write_text(json.dumps(schema, indent=1) + "\n")


if __name__ == "__main__":
    main()
