#!/usr/bin/env bash
# Every posterior on one small network and one molecule: RACE (2 layers, 32 channels of degrees 0 to 2) on rMD17 ethanol,
# 950 training frames, 50 that select, seed 0.  Then all are calibrated on 100 frames of the test file and compared on 500 others.
#
#   examples/reproduce/posteriors.sh DATA_FOLDER [EPOCHS [device [ROW ...]]]
#
# EPOCHS is 60 without a number, two or three minutes of a CPU core for each network.  With rows named, only these are
# trained, so that several calls can share the work; call it without rows at the end.  Stop it and call it again: it goes on.
set -euo pipefail
data=$1 epochs=${2:-60} device=${3:-cpu} rows=("${@:4}")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
folder=runs/posteriors-$epochs
file=$data/rmd17/rmd17_ethanol_train_01.npz test=$data/rmd17/rmd17_ethanol_test_01.npz

row() { # name, options
    local name=$1
    shift
    if [ ${#rows[@]} -gt 0 ] && [[ " ${rows[*]} " != *" $name "* ]]; then return; fi
    if [ -e "$folder/$name.blip" ]; then return; fi
    blipcalc train "$file" -o "$folder/$name.blip" --folder "$folder/$name" --energy-unit kcal/mol --architecture race \
        --device "$device" --no-calibrate --set data.calibration=0 "$@"
}
layers=(--set model.sizes.layers=2)
stage() { # name of the stage, then its options: the same training for all
    printf -- "--set\n$1.%s\n" compile=true batch_size=5 learning_rate=2e-3 "${@:2}"
}
mapfile -t mae < <(stage training) && mapfile -t jef < <(stage training objective=nll_jef)
mapfile -t nll_e < <(stage training objective=nll_e) && mapfile -t warm < <(stage warm)
mapfile -t ivon < <(printf -- "--set\ntraining.%s\n" compile=true batch_size=5)
from_scratch=(--warm-epochs 0 --epochs "$epochs" "${layers[@]}")
from_point=(--start "$folder/point.blip" --warm-epochs 0 --epochs 0)

mkdir -p "$folder"
row point --posterior point "${from_scratch[@]}" "${mae[@]}"
row mve-jef --posterior point "${from_scratch[@]}" "${jef[@]}"
row mve-e --posterior point "${from_scratch[@]}" "${nll_e[@]}"
row ensemble --posterior ensemble --members 4 "${from_scratch[@]}" "${mae[@]}"
row ensemble-jef --posterior ensemble --members 4 "${from_scratch[@]}" "${jef[@]}"
row ensemble-e --posterior ensemble --members 4 "${from_scratch[@]}" "${nll_e[@]}"
row swag --posterior swag "${from_scratch[@]}" "${mae[@]}"
row swag-jef --posterior swag "${from_scratch[@]}" "${jef[@]}"
row ivon --posterior ivon "${from_scratch[@]}" "${ivon[@]}"
row mixture --posterior mixture --warm-epochs "$epochs" "${layers[@]}" "${warm[@]}"
if [ -e "$folder/point.blip" ]; then
    row laplace --posterior laplace "${from_point[@]}"
    row laplace-all --posterior laplace --set model.laplace.weights=all "${from_point[@]}"
    row llpr --posterior llpr "${from_point[@]}"
    row blip --posterior blip "${from_point[@]}" --noise-epochs 60
fi
if [ ${#rows[@]} -gt 0 ]; then exit; fi

models=()
for name in point mve-jef mve-e ensemble ensemble-jef ensemble-e swag swag-jef ivon laplace laplace-all llpr blip mixture; do
    calibrated=$folder/calibrated/$name.blip
    mkdir -p "$folder/calibrated"
    if [ ! -e "$calibrated" ]; then
        # without heads a point estimate has nothing to calibrate
        blipcalc calibrate "$folder/$name.blip" "$test" --index 5::10 --energy-unit kcal/mol --dtype float32 --n-draws 16 \
            -o "$calibrated" || cp "$folder/$name.blip" "$calibrated"
    fi
    models+=("$calibrated")
done
blipcalc compare "${models[@]}" --data "$test" --index ::2 --energy-unit kcal/mol --foreign "$data/acac/test_MD_300K.xyz" \
    --foreign-index ::20 --dtype float32 -o "$folder/comparison"
