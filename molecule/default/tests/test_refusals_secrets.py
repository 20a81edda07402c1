"""A wrong secret, or a vault that cannot be decrypted, is refused before anything changes."""

import subprocess

import yaml
from outside import ROOT, play
from refusals import Case, each


def with_vault(name, *arguments):
    """Return a function that runs site.yml with an encrypted vault.yml and a wrong or missing password."""

    def run(context):
        inventory = context.tmp / f"vault-{name}"
        (inventory / "group_vars/all").mkdir(parents=True)
        hosts = {"slipway": {"hosts": {"blog": context.connection | {"stack_domain": "localhost"}}}}
        (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
        vault, right, wrong = (inventory / file for file in ("group_vars/all/vault.yml", ".right", ".wrong"))
        vault.write_text("secrets_vault: {}\n")
        right.write_text("right\n")
        wrong.write_text("wrong\n")
        encrypt = ["ansible-vault", "encrypt", "--vault-password-file", str(right), str(vault)]
        subprocess.run(encrypt, cwd=ROOT, check=True, capture_output=True)
        return play("site.yml", "--inventory", str(inventory), *(a.format(wrong=wrong) for a in arguments))

    return run


CASES = [
    Case(
        "unknown secret",
        [
            "secrets_vault has typo, which is not a known secret",
            "The known secrets are db_superuser_password",
        ],
        {"secrets_vault": {"typo": "never-to-be-shown"}},
        hides="never-to-be-shown",
    ),
    Case(
        "short secret",
        [
            "secrets_vault has a value of fewer than 12 characters for app_secret_key",
            "Use a longer value",
        ],
        {"secrets_vault": {"app_secret_key": "never-shown"}},
        hides="never-shown",
    ),
    Case(
        "short key of the app",
        ["secrets_vault.app_secret_key has 20 characters", "requires at least 32", "Use a longer value"],
        {"secrets_vault": {"app_secret_key": "never-shown-but-used"}},
        hides="never-shown-but-used",
    ),
    Case(
        "secret of two lines",
        [
            "secrets_vault has a value with a line break",
            "for admin_password",
            "Use one line",
        ],
        {"secrets_vault": {"admin_password": "never-shown-but\nused"}},
        hides="never-shown-but",
    ),
    Case(
        "vault without its password",
        ["group_vars/all/vault.yml cannot be decrypted", "no vault secrets found", "--ask-vault-pass"],
        run=with_vault("without"),
    ),
    Case(
        "vault with another password",
        ["group_vars/all/vault.yml cannot be decrypted", "could decrypt", "--ask-vault-pass"],
        run=with_vault("wrong", "--vault-password-file", "{wrong}"),
    ),
]


@each(CASES)
def test_wrong_secret_is_refused(case, assert_refused):
    assert_refused(case)
