import pytest

from autoprune.core.errors import ProfilerError
from autoprune.profile.energy import MeterError
from autoprune.profile.energy_zeus import NvmlMeter, RaplMeter

zeus = pytest.importorskip("zeus.device", reason="needs zeus: pip install 'autoprune[energy]'")


def zone(folder, name, energy_uj, range_uj=262_143_328_850):
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    """The folder that zeus looks for counters in."""
    from zeus.device import cpu
    from zeus.device.cpu import rapl

    monkeypatch.delenv("ZEUSD_SOCK_PATH", raising=False)
    monkeypatch.setattr(rapl, "RAPL_DIR", str(tmp_path / "intel-rapl"))
    monkeypatch.setattr(cpu, "_cpus", None)
    rapl.rapl_is_available.cache_clear()
    yield tmp_path / "intel-rapl"
    rapl.rapl_is_available.cache_clear()


@pytest.fixture
def package(powercap):
    energy = zone(powercap / "intel-rapl:0", "package-0", 262_143_000_000)
    dram = zone(powercap / "intel-rapl:0" / "intel-rapl:0:0", "dram", 5_000_000)
    zone(powercap / "intel-rapl:1", "psys", 1)
    return energy, dram


def test_packages_and_memory_are_summed_and_wrap_around(package):
    energy, dram = package
    meter = RaplMeter()
    assert meter.covers.startswith("package-0, package-0 dram (RAPL)")
    first = meter.read_mj()
    dram.write_text("7000000\n")
    assert meter.read_mj() - first == pytest.approx(2000.0)
    energy.write_text("671150\n")  # past 262 143 328 850 µJ it begins at 0
    assert meter.read_mj() - first == pytest.approx(2000.0 + 1000.0)
    energy.unlink()
    with pytest.raises(MeterError, match="RAPL counter package-0 can't be read: FileNotFound"):
        meter.read_mj()


def test_no_process_watches_beside_the_measuring(package):
    import multiprocessing

    RaplMeter().read_mj()
    assert multiprocessing.active_children() == []


def test_counters_that_may_not_be_read_say_how_to_allow_it(package, monkeypatch):
    from zeus.device.cpu import rapl

    def refuse(path, *args):
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *args)

    monkeypatch.setattr(rapl, "open", refuse, raising=False)
    with pytest.raises(ProfilerError, match=r"sudo chmod -R a\+r /sys/class/powercap.*ZEUSD_SOCK"):
        RaplMeter()


def test_a_machine_without_counters_says_so(powercap):
    with pytest.raises(ProfilerError, match=r"no energy counters .*Virtual machines.*power_w"):
        RaplMeter()
    powercap.mkdir()
    with pytest.raises(ProfilerError):
        RaplMeter()


class Gpu:
    def __init__(self, counts=True):
        self.counts, self.total, self.lost = counts, 1000, False

    def get_name(self):
        return "NVIDIA H200"

    def supports_get_total_energy_consumption(self):
        return self.counts

    def get_total_energy_consumption(self):
        if self.lost:
            from zeus.device.gpu.common import ZeusGPULostError

            raise ZeusGPULostError("GPU is lost")
        self.total += 7
        return self.total


@pytest.fixture
def gpus(monkeypatch):
    found = [Gpu(), Gpu(counts=False)]

    class Gpus:
        gpus = found

    monkeypatch.setattr(zeus, "get_gpus", Gpus)
    return found


def test_a_gpus_total(gpus):
    meter = NvmlMeter()
    assert meter.read_mj() == 1007.0
    assert meter.read_mj() == 1014.0
    assert meter.covers == "NVIDIA H200 (NVML): the whole board, idle power included"
    gpus[0].lost = True
    with pytest.raises(MeterError, match="GPU is lost"):
        meter.read_mj()


def test_a_gpu_without_a_counter_or_none_at_all(gpus, monkeypatch):
    with pytest.raises(ProfilerError, match=r"GPU 1 .* has no energy counter: .* Volta"):
        NvmlMeter(1)
    with pytest.raises(ProfilerError, match="one of the 2 GPUs, 0 to 1; got 2"):
        NvmlMeter(2)

    def none():
        from zeus.device.gpu.common import ZeusGPUInitError

        raise ZeusGPUInitError("NVML unavailable")

    monkeypatch.setattr(zeus, "get_gpus", none)
    with pytest.raises(ProfilerError, match=r"NVML unavailable.*nvidia-smi"):
        NvmlMeter()


@pytest.mark.gpu
def test_this_machines_gpu():
    try:
        meter = NvmlMeter()
    except ProfilerError as error:
        pytest.skip(str(error))
    assert meter.read_mj() > 0
