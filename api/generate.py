#!/usr/bin/env python3
"""Writes data/kinds.txt and data/schema.txt from ../shared/reference and data/go-fields.txt (made by go_facts.py).

  generate.py REFERENCE [OUT]     OUT: folder to write to (data), or - to check that the checked-in files are what would be written

schema.txt: `=definition message goType flags`, then one line per field: tab-separated name, type, flags, proto path, Go type, extras.
  type    s string, y bytes, b bool, i int32, l int64, d double, q Quantity, x IntOrString, t Time, m MicroTime, u Duration, r RawExtension, f FieldsV1,
          j any JSON, A/B/C JSONSchemaPropsOr{Array,Bool,StringArray}, @definition, [T list, {T map
  flags   o omitempty, z omitzero, p pointer, R required, A atomic list/map/struct, S set, M map list, G granular, W list in a message of its own
  extras  keys=a,b  mk=mergeKey  ps=patchStrategy  df=default  in=inlined Go structs around it
  Definition flags: A atomic struct, E in no OpenAPI document. `unions` holds x-kubernetes-unions.  `gvk` lines give group|version|kind of a definition.
kinds.txt: `g group versions…`, `r group version plural singular kind list-kind N|C shortNames categories verbs definition [D]` (D: a delete answers with the object), `s name group version kind verbs`.
"""
import json, pathlib, re, sys

HERE = pathlib.Path(__file__).resolve().parent
SPECIAL = {"Quantity": "q", "IntOrString": "x", "Time": "t", "MicroTime": "m", "Duration": "u", "RawExtension": "r", "FieldsV1": "f", "JSON": "j",
           "JSONSchemaPropsOrArray": "A", "JSONSchemaPropsOrBool": "B", "JSONSchemaPropsOrStringArray": "C"}
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
# Types that travel (options, metadata-only objects, storage forms) but are in no OpenAPI document.
EXTRA = [META + n for n in ("CreateOptions", "UpdateOptions", "PatchOptions", "GetOptions", "ListOptions", "PartialObjectMetadata", "PartialObjectMetadataList",
         "List", "RootPaths", "GroupVersionKind", "GroupVersionResource", "Table", "TableColumnDefinition", "TableRow", "TableRowCondition", "TableOptions")] + \
        ["io.k8s.api.core.v1." + n for n in ("PodLogOptions", "PodExecOptions", "PodAttachOptions", "PodPortForwardOptions", "PodProxyOptions", "NodeProxyOptions",
         "ServiceProxyOptions", "RangeAllocation", "SerializedReference", "PodStatusResult", "List")] + \
        ["io.k8s.api.admission.v1." + n for n in ("AdmissionReview", "AdmissionRequest", "AdmissionResponse")]
# Kinds of kube-aggregator, of which there is no Debian package.
AGGREGATOR = """
APIService metadata:metav1.ObjectMeta:o spec:APIServiceSpec:o status:APIServiceStatus:o
APIServiceList metadata:metav1.ListMeta:o items:[]APIService:-
APIServiceSpec service:*ServiceReference:o group:string:o version:string:o insecureSkipTLSVerify:bool:o caBundle:[]byte:o groupPriorityMinimum:int32:- versionPriority:int32:-
APIServiceCondition type:APIServiceConditionType:- status:ConditionStatus:- lastTransitionTime:metav1.Time:o reason:string:o message:string:o
APIServiceStatus conditions:[]APIServiceCondition:o
ServiceReference namespace:string:o name:string:o port:*int32:o
"""
VERSION_INFO = "major minor emulationMajor:o emulationMinor:o minCompatibilityMajor:o minCompatibilityMinor:o gitVersion gitCommit gitTreeState buildDate goVersion compiler platform"

def load_go(path):
    structs, named, current = {}, {}, None
    for line in path.read_text().splitlines():
        if line.startswith("="):
            key, name = line[1:].split(" ")
            current = structs[key] = {"go": name, "fields": {}, "inline": [], "meta": []}
        elif line.startswith("~"):
            key, under = line[1:].split(" ", 1)
            named[key] = under
        elif line.startswith("<"):
            current["meta" if line.endswith("TypeMeta") else "inline"].append(line.split(" ")[1])
        else:
            parts = line.split(" ", 3)
            current["fields"][parts[0]] = (parts[1], parts[2], parts[3] if len(parts) > 3 else "")
    package = "k8s.io.kube_aggregator.pkg.apis.apiregistration.v1."
    for line in AGGREGATOR.strip().splitlines():
        name, *fields = line.split()
        structs[package + name] = {"go": "v1." + name, "inline": [], "fields": {f.split(":")[0]: (f.split(":")[1], f.split(":")[2], "") for f in fields}}
    structs["k8s.io.apimachinery.pkg.version.Info"] = {"go": "version.Info", "inline": [],
        "fields": {f.split(":")[0]: ("string", (f.split(":") + ["-"])[1], "") for f in VERSION_INFO.split()}}
    return structs, named

IMPORTS = {"metav1": "k8s.io.apimachinery.pkg.apis.meta.v1", "v1": "k8s.io.api.core.v1", "corev1": "k8s.io.api.core.v1", "api": "k8s.io.api.core.v1", "types": "k8s.io.apimachinery.pkg.types",
           "intstr": "k8s.io.apimachinery.pkg.util.intstr", "resource": "k8s.io.apimachinery.pkg.api.resource", "runtime": "k8s.io.apimachinery.pkg.runtime",
           "apiextensionsv1": "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1", "authenticationv1": "k8s.io.api.authentication.v1"}

# The core group, which the aggregated document of /apis does not hold: plural, kind, scope, short names, categories, verbs (* all), subresources.
CORE = """
bindings Binding N - - create
componentstatuses ComponentStatus C cs - get,list
configmaps ConfigMap N cm - *
endpoints Endpoints N ep - *
events Event N ev - *
limitranges LimitRange N limits - *
namespaces Namespace C ns - create,delete,get,list,patch,update,watch finalize:update status:get,patch,update
nodes Node C no - * proxy/NodeProxyOptions:create,delete,get,patch,update status:get,patch,update
persistentvolumeclaims PersistentVolumeClaim N pvc - * status:get,patch,update
persistentvolumes PersistentVolume C pv - * status:get,patch,update
pods Pod N po all * attach/PodAttachOptions:create,get binding/Binding:create ephemeralcontainers:get,patch,update eviction/Eviction@policy/v1:create exec/PodExecOptions:create,get log:get portforward/PodPortForwardOptions:create,get proxy/PodProxyOptions:create,delete,get,patch,update resize:get,patch,update status:get,patch,update
podtemplates PodTemplate N - - *
replicationcontrollers ReplicationController N rc all * scale/Scale@autoscaling/v1:get,patch,update status:get,patch,update
resourcequotas ResourceQuota N quota - * status:get,patch,update
secrets Secret N - - *
serviceaccounts ServiceAccount N sa - * token/TokenRequest@authentication.k8s.io/v1:create
services Service N svc all * proxy/ServiceProxyOptions:create,delete,get,patch,update status:get,patch,update
"""
SINGULAR = {"componentstatuses": "componentstatus", "endpoints": "endpoints"}
ALL = "create delete deletecollection get list patch update watch"

def core():
    for line in CORE.strip().splitlines():
        plural, kind, scope, short, categories, verbs, *subs = line.split()
        out = ["r", "", "v1", plural, SINGULAR.get(plural, plural[:-1]), kind, kind + "List", scope, short.replace("-", ""), categories.replace("-", ""),
               ALL if verbs == "*" else verbs.replace(",", " "), "io.k8s.api.core.v1." + kind]
        yield "\t".join(out)
        for sub in subs:
            name, verbs = sub.split(":")
            name, _, other = name.partition("/")
            other, _, gv = other.partition("@")
            group, _, version = gv.partition("/")
            yield "\t".join(["s", name, group, version or "v1", other or kind, verbs.replace(",", " ")])

class Gen:
    def __init__(self, reference):
        self.defs = json.loads((reference / "openapi-v2.json").read_text())["definitions"]
        self.discovery = json.loads((reference / "discovery-aggregated-v2.json").read_text())
        self.proto = json.loads((reference / "proto-fields.json").read_text())
        self.paths = json.loads((reference / "openapi-v2.json").read_text())["paths"]
        self.go, self.named = load_go(HERE / "data/go-fields.txt")
        self.missing = []

    def message(self, definition):
        return definition.replace("io.k8s.", "k8s.io.", 1).replace("apiextensions-apiserver", "apiextensions_apiserver").replace("kube-aggregator", "kube_aggregator")

    def resolve(self, package, name):
        """The full name of Go type `name` used in `package`."""
        if "." in name:
            alias, name = name.split(".")
            if alias == "v1" and package.startswith("k8s.io.apimachinery"): alias = "metav1"
            return f"{IMPORTS.get(alias, alias)}.{name}"
        return f"{package}.{name}"

    def struct(self, message):
        """The struct, through an alias such as `type MatchCondition v1.MatchCondition`."""
        if message not in self.go and self.named.get(message, "").startswith(("v1.", "k8s.io.")):
            group, target = message.rsplit(".", 2)[0], self.named[message]
            found = self.go.get(target if target.startswith("k8s.io") else f"{group}.{target}")
            return found and {**found, "go": message.split(".")[-2] + "." + message.split(".")[-1]}
        return self.go.get(message)

    def go_field(self, message, field):
        struct = self.struct(message)
        if struct is None: return None
        package = message.rsplit(".", 1)[0]
        if field in struct["fields"]: return package, struct["fields"][field], []
        for inline in struct["inline"]:
            found = self.go_field(self.resolve(package, inline), field)
            if found: return found[0], found[1], [inline.split(".")[-1], *found[2]]
        return None

    def go_fields(self, message):
        struct = self.go[message]
        package = message.rsplit(".", 1)[0]
        for inline in struct["inline"]: yield from self.go_fields(self.resolve(package, inline))
        for name, fact in struct["fields"].items(): yield name, package, fact

    def proto_path(self, message, field, json_names):
        fields = self.proto.get(message)
        if fields is None: return None
        name = re.sub("^x-kubernetes-", "xKubernetes-", field).replace("-", "").lstrip("$").lower()
        for other, fact in fields.items():
            if other.lower() == name: return str(fact["n"])
        for other, fact in fields.items():
            if fact.get("rep") or other in json_names: continue
            kind = fact["t"] if "." in fact["t"] else message.rsplit(".", 1)[0] + "." + fact["t"]
            if kind in self.proto and not fact["t"].islower():
                below = self.proto_path(kind, field, ())
                if below: return f"{fact['n']}.{below}"
        return None

    def is_wrapped(self, message, field):
        """Lists of a named Go type travel as a message that holds the list as `items`."""
        fact = self.proto.get(message, {}).get(field)
        return fact is not None and not fact.get("rep")

    def type_of(self, prop):
        if "$ref" in prop:
            name = prop["$ref"].rsplit("/", 1)[1]
            return SPECIAL.get(name.rsplit(".", 1)[1]) or "@" + name
        kind, form = prop.get("type"), prop.get("format")
        if kind == "array": return "[" + self.type_of(prop["items"])
        if kind == "object": return "{" + self.type_of(prop["additionalProperties"]) if "additionalProperties" in prop else "r"
        return {("string", None): "s", ("string", "byte"): "y", ("integer", "int32"): "i", ("integer", "int64"): "l", ("boolean", None): "b",
                ("number", "double"): "d", ("string", "date-time"): "t"}[(kind, form)]

    def type_of_go(self, package, go):
        go = go.lstrip("*")
        if go == "[]byte": return "y"
        if go.startswith("[]"): return "[" + self.type_of_go(package, go[2:])
        if go.startswith("map[string]"): return "{" + self.type_of_go(package, go[11:])
        basic = {"string": "s", "bool": "b", "int32": "i", "int64": "l", "int": "l", "uint8": "i", "float64": "d", "interface{}": "j"}
        if go in basic: return basic[go]
        full = self.resolve(package, go)
        if full.rsplit(".", 1)[1] in SPECIAL: return SPECIAL[full.rsplit(".", 1)[1]]
        if full in self.named: return self.type_of_go(full.rsplit(".", 1)[0], self.named[full])
        if go in ("IncludeObjectPolicy", "types.UID", "RowConditionType", "ResourceVersionMatch", "DeletionPropagation", "ConditionStatus"): return "s"
        return "@" + full.replace("k8s.io.", "io.k8s.", 1)

    def go_type(self, package, go):
        """The type as Go prints it: package names added to local types, pointers dropped at the top."""
        go = go.lstrip("*")
        prefix = ""
        while True:
            match = re.match(r"(\[\]|map\[[\w.]+\]|\*)(.*)", go)
            if not match: break
            key = match.group(1)
            if key.startswith("map[") and key != "map[string]": key = f"map[{self.go_type(package, key[4:-1])}]"
            prefix, go = prefix + key, match.group(2)
        if go == "byte": return prefix + "uint8"
        if go in ("string", "bool", "int32", "int64", "int", "float64", "uint8"): return prefix + go
        full = self.resolve(package, go)
        alias = full.split(".")[-2]
        return f"{prefix}{alias}.{full.rsplit('.', 1)[1]}"

    def default(self, package, text):
        if not text.startswith("ref("): return text
        name = text[4:-1].split(".")[-1]
        return {"AzureSharedBlobDisk": '"Shared"', "AzureDataDiskCachingReadWrite": '"ReadWrite"'}.get(name, "")

    def schema(self):
        out = []
        for definition in sorted(set(self.defs) | set(EXTRA)):
            short = definition.rsplit(".", 1)[1]
            node = self.defs.get(definition, {})
            if short in SPECIAL or short == "Patch" and definition.startswith(META): continue
            message = self.message(definition)
            if definition == "io.k8s.api.core.v1.List": message = "k8s.io.apimachinery.pkg.apis.meta.v1.List"
            struct = self.struct(message)
            if struct is None: self.missing.append(f"no Go struct {message}"); continue
            flags = ("A" if node.get("x-kubernetes-map-type") == "atomic" else "") or "-"
            if definition not in self.defs: flags = flags.replace("-", "") + "E"
            out.append(f"={definition}\t{message if message in self.proto else '-'}\t{struct['go']}\t{flags}")
            if "x-kubernetes-unions" in node: out.append("unions\t" + json.dumps(node["x-kubernetes-unions"], separators=(",", ":"), sort_keys=True))
            for gvk in node.get("x-kubernetes-group-version-kind", []):
                out.append(f"gvk\t{gvk['group']}\t{gvk['version']}\t{gvk['kind']}")
            props = node.get("properties")
            if props is None:
                props = {} if definition in self.defs else {name: None for name, _, _ in self.go_fields(message)}
                if definition in EXTRA and struct["meta"]: props |= {"apiVersion": None, "kind": None}
            for name in sorted(props):
                prop = props[name]
                if name in ("apiVersion", "kind") and self.go_field(message, name) is None:
                    out.append(f"{name}\ts\to\t\tstring\tT")
                    continue
                found = self.go_field(message, name)
                if not found: self.missing.append(f"no Go field {definition} {name}"); continue
                package, (go, tags, default), inline = found
                kind = self.type_of(prop) if prop else self.type_of_go(package, go)
                flags = tags.replace("-", "") + ("p" if go.startswith("*") else "")
                extras = []
                if prop:
                    if name in node.get("required", []): flags += "R"
                    merged = prop
                    flags += {"atomic": "A", "set": "S", "map": "M", None: ""}[prop.get("x-kubernetes-list-type")]
                    flags += {"atomic": "A", "granular": "G", None: ""}[prop.get("x-kubernetes-map-type")]
                    if "x-kubernetes-list-map-keys" in prop: extras.append("keys=" + ",".join(prop["x-kubernetes-list-map-keys"]))
                    if "x-kubernetes-patch-merge-key" in prop: extras.append("mk=" + prop["x-kubernetes-patch-merge-key"])
                    if "x-kubernetes-patch-strategy" in prop: extras.append("ps=" + prop["x-kubernetes-patch-strategy"])
                default = self.default(package, default)
                if default: extras.append("df=" + default)
                if inline: extras.append("in=" + ".".join(inline))
                path = self.proto_path(message, name, props.keys())
                if kind.startswith("[") and self.is_wrapped(message, name): flags += "W"
                if path is None and message in self.proto: self.missing.append(f"no proto field {message} {name}")
                out.append("\t".join([name, kind, flags or "-", path or "", self.go_type(package, go), " ".join(extras)]).rstrip())
        return "\n".join(out) + "\n"

    def kinds(self):
        by_gvk = {}
        for name, node in self.defs.items():
            for gvk in node.get("x-kubernetes-group-version-kind", []):
                by_gvk.setdefault((gvk["group"], gvk["version"], gvk["kind"]), name)
        returned = set()
        for path, methods in self.paths.items():
            schema = methods.get("delete", {}).get("responses", {}).get("200", {}).get("schema", {}).get("$ref", "")
            gvk = methods.get("delete", {}).get("x-kubernetes-group-version-kind")
            if path.endswith("{name}") and gvk and not schema.endswith(".Status"): returned.add((gvk["group"], gvk["version"], gvk["kind"]))
        out = ["g\t\tv1", *(line + ("\tD" if line[0] == "r" and ("", "v1", line.split("\t")[5]) in returned else "") for line in core())]
        for item in self.discovery["items"]:
            group = item["metadata"].get("name", "")
            out.append("\t".join(["g", group] + [v["version"] for v in item["versions"]]))
            for version in item["versions"]:
                for r in version["resources"]:
                    kind = r["responseKind"]["kind"]
                    rg, rv = r["responseKind"]["group"] or group, r["responseKind"]["version"] or version["version"]
                    definition = by_gvk.get((rg, rv, kind), "")
                    out.append("\t".join(["r", group, version["version"], r["resource"], r["singularResource"], kind, kind + "List", r["scope"][0],
                        " ".join(r.get("shortNames", [])), " ".join(r.get("categories", [])), " ".join(r["verbs"]), definition] + (["D"] if (rg, rv, kind) in returned else [])))
                    for s in r.get("subresources", []):
                        k = s.get("responseKind") or {}
                        out.append("\t".join(["s", s["subresource"], k.get("group") or ("" if k.get("version") else group), k.get("version") or version["version"], k.get("kind", ""), " ".join(s["verbs"])]))
        return "\n".join(out) + "\n"

def main():
    gen = Gen(pathlib.Path(sys.argv[1]))
    target = sys.argv[2] if len(sys.argv) > 2 else str(HERE / "data")
    files = {"kinds.txt": gen.kinds(), "schema.txt": gen.schema()}
    for line in gen.missing: print(line, file=sys.stderr)
    for name, text in files.items():
        if target == "-":
            if (HERE / "data" / name).read_text() != text: sys.exit(f"data/{name} is not what generate.py writes")
        else: (pathlib.Path(target) / name).write_text(text)

main()
