"""What a pod's containers find: user, environment, volumes, network files."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .api import expand, quantity, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


PLAIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Content:
    """What the containers of a pod find; a part of Pod."""

    def field(self, path: str) -> str:
        """Returns a field of the downward API; raises KeyError for one that is not served."""
        meta, host = self.obj["metadata"], self.agent.network.host_ip
        if m := re.fullmatch(r"metadata\.(labels|annotations)(?:\['(.+)'\])?", path):
            values = meta.get(m[1]) or {}
            return (
                values.get(m[2], "")
                if m[2]
                else "\n".join(f"{k}={json.dumps(v)}" for k, v in sorted(values.items()))
            )
        return {
            "metadata.name": self.name,
            "metadata.namespace": self.ns,
            "metadata.uid": self.uid,
            "spec.nodeName": self.node.name,
            "status.podIP": self.ip,
            "status.podIPs": self.ip,
            "status.hostIP": host,
            "status.hostIPs": host,
            "spec.serviceAccountName": self.spec.get("serviceAccountName", ""),
        }[path]

    def amount(self, ref: dict[str, Any], c: dict[str, Any]) -> str:
        """Returns a resource of the downward API in units of its divisor, rounded up."""
        c = next((x for x in self.inits + self.mains if x["name"] == ref.get("containerName")), c)
        kind, _, what = ref["resource"].partition(".")
        value, unit = (
            (c["resources"].get(kind) or {}).get(what) or self.node.capacity.get(what, "0"),
            quantity(ref.get("divisor") or 1) or 1,
        )
        return str(int(-(-quantity(value) // unit)))

    async def data(self, kind: str, ref: dict[str, Any]) -> dict[str, bytes]:
        """Returns the entries of a ConfigMap or Secret; raises LookupError if it is not there."""
        name = ref.get("name") or ref.get("secretName")
        obj = await self.agent.api("GET", f"/api/v1/namespaces/{self.ns}/{kind}s/{name}")
        if obj is None and not ref.get("optional"):
            raise LookupError(f'{kind} "{name}" not found')
        plain, binary = ((obj or {}).get(k) or {} for k in ("data", "binaryData"))
        return {
            k: base64.b64decode(v) if kind == "secret" else v.encode() for k, v in plain.items()
        } | {k: base64.b64decode(v) for k, v in binary.items()}

    def user(self, c: dict[str, Any]) -> dict[str, Any]:
        """The user, group and more groups of a container; refuses as the kubelet does."""
        own, pod = c.get("securityContext") or {}, self.spec.get("securityContext") or {}
        both = {**pod, **{k: v for k, v in own.items() if v is not None}}
        uid, gid = both.get("runAsUser"), both.get("runAsGroup")
        image_uid, _, image_gid = self.agent.image_users.get(c.get("image"), "").partition(":")
        if uid is None and image_uid:
            uid, gid = int(image_uid), int(image_gid or 0) if gid is None else gid
        elif both.get("runAsNonRoot") and uid is None:
            raise LookupError(
                f'container has runAsNonRoot and image will run as root (pod: "{self.name}_{self.ns}({self.uid})", container: {c["name"]})'
            )
        if both.get("runAsNonRoot") and uid == 0:
            raise LookupError(
                f'container\'s runAsUser breaks non-root policy (pod: "{self.name}_{self.ns}({self.uid})", container: {c["name"]})'
            )
        groups = [
            g for g in (pod.get("fsGroup"), *(pod.get("supplementalGroups") or [])) if g is not None
        ]
        return {"uid": uid or 0, "gid": gid or 0, "groups": groups}

    def hostname(self) -> str:
        """Returns the pod's host name, cut to what the kernel takes."""
        return (self.spec.get("hostname") or self.name)[:63].rstrip("-.")

    async def env(self, c: dict[str, Any]) -> dict[str, str]:
        """Returns a container's environment; raises LookupError for what is missing."""
        host, port = (
            self.agent.api_for_pods
            if self.network
            else (self.agent.api.server.hostname, self.agent.api.server.port)
        )
        env = {
            "PATH": PLAIN_PATH
            if c.get("image") in self.agent.image_roots
            else self.agent.args.path,
            "HOME": "/" if self.user(c)["uid"] else "/root",
            "HOSTNAME": self.hostname(),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": str(port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(port),
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, self.gpus)),
        }
        for source in c.get("envFrom") or []:
            kind, ref = next(
                (k, source[r])
                for r, k in (("configMapRef", "configmap"), ("secretRef", "secret"))
                if r in source
            )
            env |= {
                source.get("prefix", "") + k: v.decode(errors="replace")
                for k, v in (await self.data(kind, ref)).items()
            }
        for item in c.get("env") or []:
            ((how, ref),) = (item.get("valueFrom") or {"value": item.get("value", "")}).items()
            value = (
                expand(ref, env)
                if how == "value"
                else self.field(ref["fieldPath"])
                if how == "fieldRef"
                else None
            )
            if how == "resourceFieldRef":
                value = self.amount(ref, c)
            elif how in ("configMapKeyRef", "secretKeyRef"):
                found = (await self.data(how[:-6].lower(), ref)).get(ref["key"])
                if found is None and not ref.get("optional"):
                    raise LookupError(
                        f"couldn't find key {ref['key']} in {how[:-6]} {self.ns}/{ref['name']}"
                    )
                value = found and found.decode(errors="replace")
            if value is not None:
                env[item["name"]] = value
        return env

    def base(self, v: dict[str, Any]) -> Path:
        """The folder (or file) of a volume."""
        if host := v.get("hostPath"):
            path = Path(host["path"])
            if not path.exists():
                write(path, b"") if host.get("type") == "FileOrCreate" else path.mkdir(parents=True)
            return path
        if claim := v.get("persistentVolumeClaim"):
            return self.agent.root / "claims" / self.ns / claim["claimName"]
        return self.dir / "volumes" / v["name"]

    def mounts(self, c: dict[str, Any], env: dict[str, str]) -> Iterator[tuple[Path, str, str]]:
        """(source, target, "ro" or "rw") of the container's volumes."""
        volumes = {v["name"]: v for v in self.spec.get("volumes") or []}
        for m in c.get("volumeMounts") or []:
            v = volumes[m["name"]]
            source = self.base(v) / expand(m.get("subPathExpr") or m.get("subPath") or "", env)
            if not source.exists():
                source.mkdir(parents=True)
                self.share(source) if "hostPath" not in v else None
            fixed = v.keys() & {"secret", "configMap", "projected", "downwardAPI"}
            yield source, m["mountPath"].rstrip("/"), "ro" if m.get("readOnly") or fixed else "rw"

    def network_files(self) -> list[tuple[Path, str, str]]:
        """Mounts of /etc/resolv.conf, /etc/hosts and /etc/hostname. The name server knows Services that are made later."""
        if not self.agent.network.gateway or (
            not self.network and self.spec.get("dnsPolicy") != "ClusterFirstWithHostNet"
        ):
            return []
        sub = self.spec.get("subdomain")
        own = (
            f"{self.ip}\t"
            + (f"{self.hostname()}.{sub}.{self.ns}.svc.cluster.local\t" if sub else "")
            + self.hostname()
        )
        aliases = [
            f"{a['ip']}\t" + "\t".join(a.get("hostnames") or [])
            for a in self.spec.get("hostAliases") or []
        ]
        files = {
            "resolv.conf": [
                f"search {self.ns}.svc.cluster.local svc.cluster.local cluster.local",
                f"nameserver {self.agent.network.gateway}",
                "options ndots:5",
            ],
            "hosts": ["127.0.0.1\tlocalhost", "::1\tlocalhost", own, *aliases],
            "hostname": [self.hostname()],
        }
        for name, lines in files.items():
            write(self.dir / "etc" / name, ("\n".join(lines) + "\n").encode())
        return [(self.dir / "etc" / name, f"/etc/{name}", "rw") for name in files]

    def share(self, path: Path) -> None:
        """Gives a volume to the pod's fsGroup: readable, and writable where its owner may write."""
        group = (self.spec.get("securityContext") or {}).get("fsGroup")
        if group is None or path.is_symlink():
            return
        os.chown(path, -1, group)
        mode = path.stat().st_mode & 0o7777
        path.chmod(
            mode | (0o2770 if path.is_dir() else 0o440 | (mode & 0o200) >> 3 | (mode & 0o100) >> 3)
        )
        for child in path.iterdir() if path.is_dir() else []:
            self.share(child)

    async def volumes(self) -> str | None:
        """Fills the volume folders; returns what is missing, if anything."""
        try:
            for v in self.spec.get("volumes") or []:
                where = self.base(v)
                if "hostPath" in v:
                    continue
                where.mkdir(parents=True, exist_ok=True)
                where.chmod(0o777 if "emptyDir" in v else 0o755)
                for part in v["projected"]["sources"] if "projected" in v else [v]:
                    default = next(
                        (
                            v[k]["defaultMode"]
                            for k in ("projected", "secret", "configMap", "downwardAPI")
                            if (v.get(k) or {}).get("defaultMode") is not None
                        ),
                        0o644,
                    )
                    await self.project(where, part, default)
                self.share(where)
        except LookupError as e:
            return f"MountVolume.SetUp failed: {e.args[0]}"

    async def project(self, where: Path, part: dict[str, Any], default: int) -> None:
        """Writes one source of a volume into its folder; raises LookupError for what is missing."""

        def put(path: str, data: bytes, mode: int | None = None) -> None:
            write(where / path, data)
            (where / path).chmod(default if mode is None else mode)

        for kind, ref in ((k.lower(), part[k]) for k in ("configMap", "secret") if k in part):
            data = await self.data(kind, ref)
            for item in ref.get("items") or [{"key": k, "path": k} for k in data]:
                if item["key"] in data:
                    put(item["path"], data[item["key"]], item.get("mode"))
                elif not ref.get("optional"):
                    raise LookupError(f"{kind} references non-existent key: {item['key']}")
        for item in (part.get("downwardAPI") or {}).get("items") or []:
            put(
                item["path"],
                (
                    self.field(item["fieldRef"]["fieldPath"])
                    if "fieldRef" in item
                    else self.amount(item["resourceFieldRef"], {})
                ).encode(),
                item.get("mode"),
            )
        if token := part.get("serviceAccountToken"):
            spec = {
                "audiences": [token["audience"]] if token.get("audience") else [],
                "expirationSeconds": token.get("expirationSeconds", 3600),
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": self.name,
                    "uid": self.uid,
                },
            }
            got = await self.agent.api(
                "POST",
                f"/api/v1/namespaces/{self.ns}/serviceaccounts/{self.spec['serviceAccountName']}/token",
                {"spec": spec},
            )
            if got is None:
                raise LookupError("no service account token")
            put(token["path"], got["status"]["token"].encode(), 0o644)
