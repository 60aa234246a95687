# Sourced by the scripts beside: turns the released scripts' flags into those of `liveavatar render`.
# Sets the array OPTIONS, and SAMPLE: inputs for a run that is given none. `--flag value` and `--flag=value` are the
# same, and so are dashes and underscores. A flag that only configured the released launcher has no meaning here: it is
# left out, and a line on the terminal names it.

OPTIONS=()
samples="$(cd "$(dirname "${BASH_SOURCE[0]}")/../data/samples" && pwd)"
SAMPLE=(--audio "$samples/speech.wav" --image "$samples/portrait.png" --prompt "$(cat "$samples/prompt.txt")" --out out/sample)

refuse() {
  echo "$(basename "$0"): $1" >&2
  exit 2
}

released_flags() {
  local flag value rest
  while [ $# -gt 0 ]; do
    flag="$1"; rest=0
    case "$flag" in
      --*=*) value="${flag#*=}"; flag="${flag%%=*}" ;;
      --*) rest=1; value="${2-}" ;;
      *) refuse "$flag is no flag" ;;
    esac
    flag="--$(printf %s "${flag#--}" | tr - _)"
    case "$flag" in
      --enable_online_decode|--fp8|--resume|--force|--strict_prompt)
        OPTIONS+=("$flag"); shift; continue ;;
      --load_lora|--convert_model_dtype|--dit_fsdp|--t5_fsdp|--single_gpu|--enable_vae_parallel|--t5_cpu|--offload_kv_cache|\
      --start_from_ref|--drop_motion_noisy|--using_merged_ckpt)
        echo "$(basename "$0"): $flag is decided by the planner here and is left out" >&2; shift; continue ;;
      --use_prompt_extend|--enable_tts|--use_dataset)
        refuse "$flag is not part of this program; give a prompt and a sound" ;;
    esac
    [ "$rest" = 0 ] || [ $# -ge 2 ] || refuse "$flag needs a value"
    case "$flag" in --audio|--image|--prompt) SAMPLE=() ;; esac
    case "$flag" in
      --size|--num_clip|--infer_frames|--audio|--image|--prompt|--sample_steps|--out|--model|--seed|--num_gpus|\
      --offload_model|--kv_cache_dtype|--pose_video|--denoise|--whisper)
        OPTIONS+=("$flag" "$value") ;;
      --base_seed) [ "$value" = -1 ] || OPTIONS+=(--seed "$value") ;;
      --ckpt_dir) OPTIONS+=(--model "$value") ;;
      --save_file) OPTIONS+=(--out "${value%.mp4}") ;;
      --save_dir) OPTIONS+=(--out "$value") ;;
      --num_gpus_dit) OPTIONS+=(--num_gpus "$value") ;;
      --task|--lora_path_dmd|--lora_path|--ulysses_size|--sample_solver|--sample_shift|--sample_guide_scale|\
      --training_config|--frame_num|--dataset_sample_idx|--prompt_extend_method|--prompt_extend_model|\
      --prompt_extend_target_lang|--tts_prompt_audio|--tts_prompt_text|--tts_text)
        echo "$(basename "$0"): $flag $value is part of the model here and is left out" >&2 ;;
      *) refuse "$flag is no flag of the released script; see liveavatar render --help" ;;
    esac
    shift $((1 + rest))
  done
}
