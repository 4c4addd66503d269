"""Measures this machine, or takes what was measured before: `measure_machine` is what everyone else calls.

In: options. Out: a MachineProfile, stored under its fingerprint in the folder of packed weights.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from narrows.kernels.cache import cache_folder
from narrows.machine import disk, links
from narrows.machine.facts import ROOT, Facts, read_facts
from narrows.machine.profile import Link, MachineProfile
from narrows.machine.store import load_profile, save_profile
from narrows.machine.survey import Progress, Survey

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MachineOptions:
    threads: int | None = None  # None: as many as Narrows would use
    disk: Path | None = None  # a folder on the disk to measure; None: where packed weights are kept
    peers: tuple[str, ...] = ()  # host:port of machines that listen
    gpu: bool = False  # look for GPUs even where no device file says that there is one
    fresh: bool = False  # whatever was stored
    root: Path = ROOT  # before /proc, /sys and /dev: for tests


def silent(_part: str, _num_done: int, _num_total: int) -> None:
    """No progress."""


def measure_machine(
    options: MachineOptions = MachineOptions(), *, progress: Progress = silent
) -> MachineProfile:
    """The stored profile of this machine, or a new one, which takes at most 20 s without peers and GPUs.

    Peers that are named are measured at every call, a disk that is named where it is not the stored one; the
    rest of a stored profile is kept. Raises InvalidConfig for options that cannot be, and for a peer that
    does not answer as it should.
    """
    facts = read_facts(options.threads, root=options.root)
    folder = cache_folder()
    disk_folder = folder if options.disk is None else disk.check_folder(options.disk)
    addresses = [links.parse_address(peer, option="--peer") for peer in options.peers]
    # First, because they may fail, and the user should not wait for that.
    measured = tuple(links.measure_link(address) for address in addresses)
    stored = None if options.fresh else _stored(folder, facts, options)
    if stored is None:
        survey = Survey(facts, disk_folder, options.gpu, options.root)
        profile = survey.run(progress)
    else:
        profile = _with_disk(stored, disk_folder, options.root)
    profile = replace(profile, links=_merged(profile.links, measured))
    if profile != stored:
        _save(folder, profile)
    return profile


def _stored(folder: Path, facts: Facts, options: MachineOptions) -> MachineProfile | None:
    profile, why = load_profile(folder, facts.fingerprint)
    if why:
        log.warning("measuring anew: %s", why)
    if profile is not None and options.gpu and not profile.gpus:
        return None  # the user knows of a GPU that was not looked for
    return profile


def _with_disk(stored: MachineProfile, wanted: Path, root: Path) -> MachineProfile:
    """The disk of `wanted`, measured where it is another than the stored one."""
    if stored.disk is not None and stored.disk.path == str(wanted):
        return stored
    kept = {name: why for name, why in stored.unknown.items() if not name.startswith("disk")}
    try:
        found, missing = disk.measure_disk(wanted, root=root)
    except OSError as error:
        return replace(stored, disk=None, unknown={**kept, "disk": str(error)})
    return replace(stored, disk=found, unknown={**kept, **missing})


def _merged(before: tuple[Link, ...], measured: tuple[Link, ...]) -> tuple[Link, ...]:
    """The links of before, those measured anew in place of their old figures."""
    links_by_peer = {link.peer: link for link in (*before, *measured)}
    return tuple(links_by_peer.values())


def _save(folder: Path, profile: MachineProfile) -> None:
    try:
        save_profile(folder, profile)
    except OSError as error:
        log.warning("the profile is not stored and will be measured again: %s", error)
