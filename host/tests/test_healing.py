"""Restarts of unhealthy containers."""

import json
from dataclasses import replace

import pytest
from fakes import NEW
from ward import HUNG, NOON, shown

from slipway import healing
from slipway.healing import Healed, Healer, read_record
from slipway.lock import lock
from slipway.shell import CommandFailure, Failure


@pytest.mark.parametrize("service", ["nginx", "db", "flask_blog_blue"])
def test_unhealthy_container_is_restarted_and_recorded(stack, ward, healer, capsys, service):
    ward.fall_ill(service)
    assert healer.look() is False
    assert ward.restarted == [(service, 3)]
    line = f"{service}: restarted, unhealthy for 19 s: Health check exceeded timeout (3s)\n"
    assert capsys.readouterr().out == line
    assert read_record(stack) == [Healed(service, shown(NOON), 19, HUNG["Output"])]
    assert healer.look() is False
    assert len(ward.restarted) == 1


def test_frozen_container_gets_no_time_to_stop(ward, healer):
    ward.fall_ill("db")
    ward.frozen.add("db")
    healer.look()
    assert ward.restarted == [("db", 0)]


def test_database_is_healed_before_the_blog_and_nginx(ward, healer):
    for service in ("nginx", "flask_blog_blue", "db"):
        ward.fall_ill(service)
        ward.frozen.add(service)
    healer.look()
    assert [service for service, _time in ward.restarted] == ["db", "flask_blog_blue", "nginx"]


def test_blog_gets_time_to_recover_after_a_restart_of_the_database(ward, healer):
    for service in ("flask_blog_blue", "db"):
        ward.fall_ill(service)
    assert healer.look() is True
    assert [service for service, _time in ward.restarted] == ["db"]
    ward.pass_by(seconds=15)
    ward.fall_ill("flask_blog_blue", times=2)
    assert healer.look() is True
    ward.pass_by(seconds=15)
    ward.fall_ill("flask_blog_blue")
    assert healer.look() is False
    assert [service for service, _time in ward.restarted] == ["db", "flask_blog_blue"]


def test_blog_is_not_restarted_while_the_database_is_becoming_unhealthy(ward, healer):
    ward.fall_ill("flask_blog_blue")
    ward.failing.add("db")
    assert healer.look() is True
    assert ward.restarted == []


def test_full_disk_does_not_stop_healing(ward, healer, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(healing, "write", full)
    ward.fall_ill("nginx")
    healer.look()
    assert ward.restarted == [("nginx", 3)]
    assert "is not recorded: No space left on device" in capsys.readouterr().out


def test_idle_slot_and_the_temporary_nginx_are_left_alone(stack, engine, ward, healer):
    engine.images["green"] = NEW
    for service in ("flask_blog_green", "nginx_temporary", "nginx_stand_in", "flask"):
        ward.fall_ill(service)
    assert healer.look() is False
    assert ward.restarted == []
    stack.switch("green")
    ward.fall_ill("flask_blog_blue")
    healer.look()
    assert ward.restarted == [("flask_blog_green", 3)]


def test_database_that_reads_its_log_after_a_crash_is_left_alone(ward, healer):
    ward.fall_ill("db", {"ExitCode": 1, "Output": ""})
    ward.fall_ill("nginx", {"ExitCode": 1, "Output": ""})
    healer.look()
    assert ward.restarted == [("nginx", 3)]


def test_container_is_not_restarted_while_another_operation_is_under_way(engine, ward, healer, capsys):
    ward.fall_ill("db")
    with lock(engine, "anna"):
        assert healer.look() is True
        assert healer.look() is True
        assert ward.restarted == []
        told = capsys.readouterr().out
        assert told.startswith(
            "db is unhealthy, but is not restarted now. Another operation is under way: anna"
        )
        assert told.count("\n") == 1
    ward.pass_by(minutes=5)
    ward.fall_ill("db", times=5)  # the engine keeps no older checks
    assert healer.look() is False
    assert ward.restarted == [("db", 3)]
    assert "unhealthy for 319 s" in capsys.readouterr().out


def test_container_that_recovers_before_the_lock_is_free_is_not_restarted(ward, healer, monkeypatch):
    """Another operation, which ends at this moment, has restarted the container."""
    ward.fall_ill("db")
    real = healing.lock

    def taken(*arguments, **options):
        ward.checks.clear()
        return real(*arguments, **options)

    monkeypatch.setattr(healing, "lock", taken)
    assert healer.look() is False
    assert ward.restarted == []


def test_others_wait_for_a_restart(engine, ward, healer):
    """The lock names the restart, so others wait for heal_seconds (settings.py), here only 0.1."""
    ward.fall_ill("db")
    run, held = ward.run, []

    def restart(*command, **options):
        if command[:2] == ("docker", "restart"):
            engine.settings = replace(engine.settings, heal_seconds=0.1)
            with pytest.raises(Failure, match="under way: a restart of db, since"), lock(engine, "anna"):
                pass
            held.append(True)
        return run(*command, **options)

    engine.run = restart
    healer.look()
    assert held == [True]
    with lock(engine, "anna"):
        pass


def test_restarts_pause_after_three_in_ten_minutes(stack, ward, healer, capsys):
    ward.incurable.add("db")
    for _ in range(5):
        ward.fall_ill("db")
        assert healer.look() is False
        ward.pass_by(seconds=60)
    assert len(ward.restarted) == 3
    told = capsys.readouterr().out
    sentence = (
        "db is unhealthy again after 3 restarts in 10 minutes; the next restart is at 2026-01-01T12:10:00Z. "
        "See `slipway logs db`."
    )
    assert told.count(sentence) == 1
    assert healing.problems(stack) == [sentence]
    ward.fall_ill("nginx")
    ward.frozen.add("nginx")
    healer.look()
    assert ward.restarted[-1] == ("nginx", 0)

    ward.pass_by(minutes=5)
    ward.fall_ill("db")
    healer.look()
    assert [service for service, _time in ward.restarted] == ["db"] * 3 + ["nginx", "db"]
    ward.checks.clear()
    assert healing.problems(stack) == []


def test_number_of_restarts_survives_the_healer(engine, ward):
    ward.incurable.add("db")
    for _ in range(5):
        ward.fall_ill("db")
        Healer(engine).look()
    assert len(ward.restarted) == 3


def test_restart_counts_even_if_the_engine_fails(stack, ward, healer, capsys):
    ward.fall_ill("db")
    ward.wrong["restart"] = CommandFailure(("docker", "restart"), 1, "cannot kill container")
    assert healer.look() is True
    assert "cannot kill container" in capsys.readouterr().out
    assert [entry.service for entry in read_record(stack)] == ["db"]
    healer.look()
    healer.look()
    assert healer.look() is False, "the fourth attempt must wait"


def test_record_has_the_restarts_of_the_last_day(stack, ward, healer):
    ward.fall_ill("db")
    healer.look()
    ward.pass_by(hours=23)
    ward.fall_ill("nginx")
    healer.look()
    assert [entry.service for entry in read_record(stack)] == ["db", "nginx"]
    ward.pass_by(hours=2)
    assert [entry.service for entry in read_record(stack)] == ["nginx"]


@pytest.mark.parametrize("text", ["", "{}[", "{}", "null", "[1]", '[{"service": "db"}]', '[{"at": 1}]'])
def test_damaged_record_counts_as_no_restart(stack, ward, healer, text):
    healing.record_file(stack).write_text(text)
    assert read_record(stack) == []
    ward.fall_ill("db")
    healer.look()
    assert [entry.service for entry in read_record(stack)] == ["db"]


def test_reason_without_output_is_the_exit_status_and_has_no_control_characters(stack, ward, healer):
    ward.fall_ill("nginx", {"ExitCode": 7, "Output": "\n"})
    healer.look()
    ward.fall_ill("nginx", {"ExitCode": 7, "Output": "first\nlast \x1b[2J" + 500 * "x"})
    healer.look()
    first, second = (entry.reason for entry in read_record(stack))
    assert first == "its check failed (7)"
    assert second.startswith("last \\x1b[2Jx")
    assert len(second) == 200


def test_webhook_is_told_of_restarts_and_once_of_the_pause(ward, healer, monkeypatch):
    told = []
    monkeypatch.setattr(healing, "call_webhook", lambda stack, key, value: told.append((key, value)))
    ward.incurable.add("db")
    for _ in range(6):
        ward.fall_ill("db")
        healer.look()
    assert [key for key, _value in told] == ["healing"] * 4
    restart = {"service": "db", "at": shown(NOON), "seconds": 19, "reason": HUNG["Output"]}
    assert [value for _key, value in told[:3]] == [restart | {"restarted": True}] * 3
    assert told[3][1] == {"service": "db", "at": shown(NOON), "restarted": False}


def test_failing_webhook_does_not_stop_the_healer(stack, ward, healer, capsys):
    stack.config["webhook_url"] = "http://127.0.0.1:1/"
    [*_, file] = stack.host.settings.configuration
    file.write_text(json.dumps(stack.config))
    for service in ("db", "nginx"):
        ward.fall_ill(service)
        ward.frozen.add(service)
    healer.look()
    assert [service for service, _time in ward.restarted] == ["db", "nginx"]
    assert "The webhook request failed" in capsys.readouterr().out


def test_host_without_a_configuration_has_nothing_to_heal(engine, ward, healer):
    for file in engine.settings.configuration:
        file.unlink(missing_ok=True)
    ward.fall_ill("db")
    assert healer.look() is False
    assert ward.restarted == []


def test_stack_without_a_release_is_healed(stack, engine, ward, healer):
    """Before the first release, the role `release` has not written its part of the configuration."""
    [_first, of_stack, _of_backup, of_release] = engine.settings.configuration
    keys = ("directory", "state", "secrets", "in_service", "host")
    of_stack.write_text(json.dumps({key: stack.config[key] for key in keys}))
    of_release.unlink()
    engine.images.clear()
    stack.set_slots({})
    ward.fall_ill("db")
    healer.look()
    assert ward.restarted == [("db", 3)]
