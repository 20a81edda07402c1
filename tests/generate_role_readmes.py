"""Generate roles/*/README.md from each role's argument specs, defaults and tasks.

python tests/generate_role_readmes.py           write the READMEs that are not current, and print their paths
python tests/generate_role_readmes.py --check   only print these paths, and exit 1 if there are any
"""

import argparse
import re
import sys

import yaml
from project import ROLES, ROOT

# A value for each required variable, for the example plays.
EXAMPLES = {
    "release_admin_email": "you@example.org",
    "sandbox_directory": "{{ inventory_dir }}/.sandbox/{{ inventory_hostname }}",
    "stack_domain": "blog.example.org",
}
# Variables that a role's example sets, because the preflight refuses their defaults, or because their
# defaults use variables of roles that are not in the example.
ALONE = {
    "backup": {"backup_accept_local_only": True},
    "tls": {"tls_names": ["blog.example.org"], "tls_acme_email": "you@example.org"},
}
# For each role, the roles that must run on a host before it.
NEEDS = {
    "backup": ["secrets"],
    "images": ["docker"],
    "tls": ["host_program"],
    "stack": ["baseline", "docker", "secrets", "images", "host_program"],
    "release": ["baseline", "docker", "secrets", "images", "host_program", "stack"],
}


def readme(role):
    """Return the README of a role."""
    spec = role.specs["main"]
    defaults = defaults_as_written(role)
    options = sorted(role.options.items(), key=lambda item: not item[1].get("required", False))
    parts = [
        "<!-- Made by tests/generate_role_readmes.py from meta/argument_specs.yml and defaults/main.yml. -->",
        f"# Role `{role.name}`",
        f"{markdown(spec['short_description'])}.",
        *(markdown(paragraph) for paragraph in spec["description"]),
    ]
    if options:
        listed = "\n".join(variable(name, option, defaults.get(name)) for name, option in options)
        parts += ["## Variables", listed]
    tags = sorted({tag for _, task in role.tasks for tag in task.get("tags", [])})
    if tags:
        parts += ["## Tags", "\n".join(f"- `{tag}`" for tag in tags)]
    if role.name != "host":
        parts += ["## Example", f"```yaml\n{example(role)}```"]
    return "\n\n".join(parts) + "\n"


def variable(name, option, default):
    """Return the list item of one variable."""
    kind = f"{option['type']} of {option['elements']}" if "elements" in option else option["type"]
    facts = [kind, "required" if option.get("required") else f"default `{default}`"]
    if "choices" in option:
        facts.insert(1, "one of " + ", ".join(f"`{choice}`" for choice in option["choices"]))
    return f"- **`{name}`** ({', '.join(facts)}): {markdown(option['description'])}"


def markdown(text):
    """Return text of an argument spec as Markdown, with C(markup) as code."""
    return re.sub(r"C\(([^)]*)\)", r"`\1`", text.strip())


def defaults_as_written(role):
    """Return the source text of each default in defaults/main.yml."""
    text = (role.path / "defaults/main.yml").read_text()
    if not role.options:
        return {}
    return {
        key.value: text[value.start_mark.index : value.end_mark.index].strip()
        for key, value in yaml.compose(text).value
    }


def example(role):
    """Return a play that runs on a bare host: the role, and the roles that it needs."""
    play = next(
        play
        for playbook in sorted((ROOT / "playbooks").rglob("*.yml"))
        for play in yaml.safe_load(playbook.read_text())
        if role.full_name in [entry["role"] for entry in play.get("roles", [])]
    )
    names = [*NEEDS.get(role.name, []), role.name]
    roles = [other.full_name for name in names for other in ROLES if other.name == name]
    required = {
        name: EXAMPLES[name]
        for other in ROLES
        if other.name in names
        for name, option in other.options.items()
        if option.get("required")
    }
    how = {key: play[key] for key in ("hosts", "connection", "become") if key in play}
    variables = {**play.get("vars", {}), **required, **ALONE.get(role.name, {})}
    play = {**how, **({"vars": variables} if variables else {}), "roles": roles}
    return yaml.dump([play], Dumper=IndentedLists, sort_keys=False)


class IndentedLists(yaml.SafeDumper):
    """A dumper that indents lists below their key."""

    def increase_indent(self, flow=False, indentless=False):
        """Indent lists too, which PyYAML does not do by default."""
        return super().increase_indent(flow, False)


def main():
    """Write the stale READMEs and print their paths; with --check only print them."""
    parser = argparse.ArgumentParser(description="Writes roles/*/README.md from the argument specs.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when one is stale")
    check = parser.parse_args().check

    wanted = {role.path / "README.md": readme(role) for role in ROLES}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(path.relative_to(ROOT))
        if not check:
            path.write_text(wanted[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
