"""Benchmarks of a built lab: `python -m labyard.bench`, or `make bench`.

figure.py   what is measured, and the targets: the only table of them
bench.py    what every measurement is given: the checkout, the lab, a voice
command.py  programs run on this machine, timed and bounded
lab.py molecule.py boot.py dhcp.py tftp.py iscsi.py netboot.py vms.py evse.py desktops.py   one family of figures each
netboot_load.py boot_clock.py vms_stand.py desktops_stand.py   what they measure with
report.py   the table and build/bench.json
"""
