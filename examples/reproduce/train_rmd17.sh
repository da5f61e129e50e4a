#!/usr/bin/env bash
# Trains the bundled model: a mixture of two BLIPs on PaiNN (128 features, 3 interactions, 5 Å) over the
# seven rMD17 molecules, official split 01. Of the 1,000 training frames of each molecule 850 train the weights, 50 select
# the epoch and fit the noise of both networks together, 100 calibrate; the 1,000 test frames are not touched.
#
#   examples/reproduce/train_rmd17.sh DATA_FOLDER/rmd17 [device [more options of blipcalc train]]
#
# Stop it and call it again: it goes on. Members train side by side, one thread each on a CPU.
#
# Other noise on the same two networks, here the control with one α per layer:
#
#   cp -r runs/rmd17 runs/constant
#   examples/reproduce/train_rmd17.sh DATA_FOLDER/rmd17 cpu --folder runs/constant -o runs/constant.blip \
#       --set model.posterior_settings.alpha=constant
set -euo pipefail
data=$1 device=${2:-cpu}
export OMP_NUM_THREADS=1
command=(blipcalc train "$data"/rmd17_*_train_01.npz -o blipcalc/bundled/rmd17.blip --folder runs/rmd17
    --energy-unit kcal/mol --device "$device" --warm-epochs 50 --set warm.compile=true "${@:3}")
"${command[@]}" --only-member 0 &
"${command[@]}" --only-member 1
wait
"${command[@]}"
