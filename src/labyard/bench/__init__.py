"""Benchmarks of a built lab: `python -m labyard.bench`, or `make bench`.

figure.py   what is measured, and the targets: the only table of them
bench.py    what every measurement is given: the checkout, the lab, a voice
command.py  programs run on this machine, timed and bounded
lab.py molecule.py boot.py dhcp.py tftp.py iscsi.py   one family of figures each
report.py   the table and build/bench.json
"""
