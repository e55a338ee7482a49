"""A stand-in for `gcloud compute tpus` as its manual describes it: one request and its TPU.

State lies in the folder $CLOUD: `request` and `vm` hold states, `home-I` is worker I. A request
waits, is provisioned, and then its machines, copies of `machine`, are ready: each question moves it
on. With a file `refused` it is FAILED, with `quota` not taken, with `broken` gcloud itself fails,
with `down-I` worker I does not answer. It imports little, for speed.
"""

import os
import sys

CLOUD = os.environ.get("CLOUD", "/nonexistent")
WORKERS = int(os.environ.get("WORKERS", "1"))
REACH = "quiet! zone project "
FLAGS = {  # an option without a value is written with "!"
    "create": REACH
    + "accelerator-type runtime-version node-id node-count node-prefix data-disk labels"
    " metadata network subnetwork scopes service-account tags valid-until-duration spot! reserved!"
    " internal-ips!",
    "describe": REACH + "format",
    "delete": REACH + "force!",
    "ssh": REACH + "worker command internal-ip!",
    "scp": REACH + "worker internal-ip!",
}
ALPHA = {
    "create": " provisioning-model max-run-duration",
    "ssh": " tunnel-through-iap!",
    "scp": " tunnel-through-iap!",
}


def fail(message: str, code: int = 1) -> None:
    sys.exit(print(f"ERROR: (gcloud.compute.tpus) {message}", file=sys.stderr) or code)


def parse(verb: str, alpha: bool, words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The names and the options, written --option=value; others than gcloud's are refused."""
    known = (FLAGS[verb] + ALPHA.get(verb, "") * alpha).split()
    names, options = [], {}
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            names.append(word)
        elif (flag if equals else f"{flag}!") in known:
            options[flag] = value
        else:
            fail(f"unrecognized arguments: {word}", 2)
    return names, options


def path(name: str) -> str:
    return os.path.join(CLOUD, name)


def write(name: str, state: str) -> None:
    with open(path(name), "w") as file:
        file.write(state)


def read(name: str) -> str:
    """A state, or gcloud's answer where there is no such thing."""
    if not os.path.exists(path(name)):
        fail(f"NOT_FOUND: Resource 'projects/p/locations/z-a/{name}' was not found.")
    with open(path(name)) as file:
        return file.read().strip()


def move_on(name: str) -> str:
    """A state; the next one is another."""
    state = read(name)
    if (name, state) == ("request", "WAITING_FOR_RESOURCES"):
        write("request", "PROVISIONING")
        write("vm", "CREATING")
    elif (name, state) == ("vm", "CREATING"):
        import shutil

        for worker in range(WORKERS):
            shutil.copytree(path("machine"), path(f"home-{worker}"))
        write("vm", "READY")
        write("request", "ACTIVE")
    elif (name, state) == ("vm", "PREEMPTED"):
        write("request", "SUSPENDED")
    return state


def chosen(worker: str) -> list[int]:
    if (state := read("vm")) != "READY":
        fail(f"TPU is not in a state that can be connected to: {state}")
    return list(range(WORKERS)) if worker == "all" else [int(worker)]


def ssh(workers: list[int], command: str) -> None:
    """Of several workers all are waited for, then the first failure is the exit code."""
    started = []
    for worker in workers:
        print(f"SSH: Attempting to connect to worker {worker}...", file=sys.stderr, flush=True)
        home = path(f"home-{worker}")
        words = ["bash", "-c", "exit 255" if os.path.exists(path(f"down-{worker}")) else command]
        environment = os.environ | {"HOME": home, "WORKER": str(worker)}
        os.chdir(home)
        if len(workers) == 1:
            os.execvpe("bash", words, environment)
        started.append(os.spawnvpe(os.P_NOWAIT, "bash", words, environment))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]
    for worker, code in zip(workers, codes, strict=True):
        if code:
            text = f"##### Command execution on worker {worker} failed with exit status {code}."
            print(text, "Continuing.", file=sys.stderr)
    sys.exit(next(filter(None, codes), 0))


def main(words: list[str]) -> None:
    alpha = words[0] == "alpha"
    kind, verb = words[alpha + 2 : alpha + 4]
    names, options = parse(verb, alpha, words[alpha + 4 :])
    name = "vm" if kind == "tpu-vm" else "request"
    if os.path.exists(path("broken")):
        fail("please log in")
    if verb == "describe":
        print(move_on(name))
    elif verb == "create":
        if os.path.exists(path("request")):
            fail("ALREADY_EXISTS: Resource already exists.")
        if os.path.exists(path("quota")):
            fail("RESOURCE_EXHAUSTED: Quota limit has been exceeded.")
        refused = os.path.exists(path("refused"))
        write("request", "FAILED" if refused else "WAITING_FOR_RESOURCES")
        print("Create request issued for: [tol]", file=sys.stderr)
    elif verb == "delete":
        read(name)
        os.system('cd "$CLOUD" && rm -rf request vm home-*')
    elif verb == "scp":
        for worker in chosen(options["worker"]):
            if os.spawnlp(os.P_WAIT, "cp", "cp", names[0], path(f"home-{worker}")):
                fail("could not copy")
    elif verb == "ssh":
        ssh(chosen(options["worker"]), options["command"])


if __name__ == "__main__":
    main(sys.argv[1:])
