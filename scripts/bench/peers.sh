# To be sourced: environments for the programs that Sentinel is measured beside. They live in .bench-venv, which git ignores by itself.
peers=.bench-venv

make_venv() {  # NAME PACKAGE…: what is there already is not made again
    local stamp=$peers/$1/.ready wanted="${*:2}"
    [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
    mkdir -p "$peers" && echo '*' >"$peers/.gitignore"
    python3 -m venv --clear "$peers/$1"
    "$peers/$1/bin/python" -m pip install -q --disable-pip-version-check "${@:2}"
    printf '%s\n' "$wanted" >"$stamp"
}
