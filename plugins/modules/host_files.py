#!/usr/bin/python
"""Keeps a set of files, directories and links as they are to be, in one round trip."""

import os
import stat
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_files
short_description: A set of files, directories and links, in one round trip
description:
  - Compares each entry with what is there, validates all new contents, and only then writes what differs.
  - A file is replaced in one step, so that nobody reads a half. All belongs to root, or to whoever runs this.
  - A dry run validates nothing, because a bare host may lack the programs for that.
options:
  files:
    description: The entries. Each is one of C(file), C(directory) and C(link).
    type: list
    elements: dict
    required: true
    suboptions:
      file:
        description: Path of a file.
        type: path
      directory:
        description: Path of a directory. Those above it are made like it.
        type: path
      link:
        description: Path of a symbolic link.
        type: path
      content:
        description: What the file holds.
        type: str
      template:
        description: Or the template that makes it, as C(ROLE/NAME). It is read on the control node.
        type: str
      copy:
        description: Or the role's file that it is a copy of, as C(ROLE/NAME). It is read on the control node.
        type: str
      to:
        description: Where the link leads.
        type: str
      mode:
        description: Permissions in octal. The default is 0755 for a directory and 0644 for a file.
        type: str
      validate:
        description: Command that fails for a bad content, which is in the file C(%s).
        type: str
      notify:
        description: Handlers to notify when this entry is written.
        type: list
        elements: str
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

RETURN = r"""
written:
  description: Paths of what was written, or would be.
  type: list
  returned: always
"""

OWNER = f"{os.geteuid()}:{os.getegid()}"


class Invalid(Exception):
    """A content that its own program refuses."""


def observe(path, kind):
    """Return what is at path, in the words of wanted()."""
    try:
        # A directory may be elsewhere, where an op led it by a link.
        status = path.stat(follow_symlinks=kind == "directory")
    except FileNotFoundError:
        return {"kind": "nothing"}
    if stat.S_ISLNK(status.st_mode):
        return {"kind": "link", "to": str(path.readlink())}
    found = {
        "kind": "directory" if stat.S_ISDIR(status.st_mode) else "file",
        "owner": f"{status.st_uid}:{status.st_gid}",
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
    }
    return found | ({"content": path.read_bytes()} if found["kind"] == "file" else {})


def wanted(entry):
    """Return what is to be at the path of an entry."""
    if entry["link"]:
        return {"kind": "link", "to": entry["to"]}
    if entry["directory"]:
        return {"kind": "directory", "owner": OWNER, "mode": entry["mode"] or "0755"}
    content = entry["content"].encode()
    return {"kind": "file", "owner": OWNER, "mode": entry["mode"] or "0644", "content": content}


def validate(command, path, content, module):
    """Let command judge a content before it is at path."""
    with tempfile.TemporaryDirectory() as directory:
        candidate = Path(directory, path.name)
        candidate.write_bytes(content)
        status, output, errors = module.run_command(command.replace("%s", str(candidate)))
    if status:
        raise Invalid(f"{path} failed to validate, so nothing was written: {errors or output}")


def sync(directory):
    """Have the names in a directory on the disk, so that they outlive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path, state):
    """Bring path to a state, in one step; a directory has none between either."""
    if state["kind"] == "directory":
        for directory in [*reversed(path.parents), path]:
            if not directory.exists():
                directory.mkdir()
                own(directory, state)
        own(path, state)
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    if state["kind"] == "link":
        new.symlink_to(state["to"])
    else:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(state["content"])
            own(new, state)
            file.flush()
            os.fsync(file.fileno())
    new.replace(path)
    sync(path.parent)


def own(path, state):
    os.chown(path, *map(int, state["owner"].split(":")))
    path.chmod(int(state["mode"], 8))


def difference(path, before, after):
    """Return the diff of an entry as Ansible shows it: of the content, then of the rest."""
    texts = [state.get("content", b"").decode(errors="replace") for state in (before, after)]
    yield {"before_header": path, "after_header": path, "before": texts[0], "after": texts[1]}
    rest = [
        {key: state[key] for key in state if key != "content" and before.get(key) != after.get(key)}
        for state in (before, after)
    ]
    if any(rest):
        yield {"before_header": path, "after_header": path, "before": rest[0], "after": rest[1]}


def main():
    entry = {name: {"type": "path"} for name in ("file", "directory", "link")}
    entry |= {name: {"type": "str"} for name in ("content", "to", "mode", "validate")}
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": entry,
                "required_one_of": [("file", "directory", "link")],
                "mutually_exclusive": [("file", "directory", "link")],
                "required_by": {"file": "content", "link": "to"},
            },
        },
        supports_check_mode=True,
    )
    changes, diff = {}, []
    path = None
    try:
        for entry in module.params["files"]:
            path = Path(entry["file"] or entry["directory"] or entry["link"])
            after = wanted(entry)
            before = observe(path, after["kind"])
            if before != after:
                changes[path] = after
                diff += difference(str(path), before, after)
                if entry["validate"] and not module.check_mode:
                    validate(entry["validate"], path, after["content"], module)
        if not module.check_mode:
            for path, state in changes.items():
                write(path, state)
    except Invalid as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{path} cannot be written: {error.strerror}")
    module.exit_json(changed=bool(changes), written=[str(path) for path in changes], diff=diff)


if __name__ == "__main__":
    main()
