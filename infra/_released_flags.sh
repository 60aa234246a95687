# Sourced by the scripts beside: turns the released scripts' flags into those of `liveavatar render`.
# Sets the array OPTIONS. Flags that only configured the released launcher have no meaning here and are named.

OPTIONS=()

released_flags() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --size|--num_clip|--infer_frames|--audio|--image|--prompt|--sample_steps|--out|--model|--seed|--num_gpus)
        OPTIONS+=("$1" "$2"); shift 2 ;;
      --base_seed) OPTIONS+=(--seed "$2"); shift 2 ;;
      --ckpt_dir) OPTIONS+=(--model "$2"); shift 2 ;;
      --save_file|--save_dir) OPTIONS+=(--out "$2"); shift 2 ;;
      --offload_model) OPTIONS+=(--offload_model "$2"); shift 2 ;;
      --enable_online_decode|--fp8|--resume|--force) OPTIONS+=("$1"); shift ;;
      --num_gpus_dit) OPTIONS+=(--num_gpus "$2"); shift 2 ;;
      --task|--lora_path_dmd|--lora_path|--ulysses_size|--sample_solver|--sample_shift|--sample_guide_scale|--training_config|--frame_num)
        echo "$(basename "$0"): $1 $2 is part of the model here and is left out" >&2; shift 2 ;;
      --load_lora|--convert_model_dtype|--dit_fsdp|--t5_fsdp|--single_gpu|--enable_vae_parallel|--t5_cpu|--offload_kv_cache)
        echo "$(basename "$0"): $1 is decided by the planner here and is left out" >&2; shift ;;
      *) echo "$(basename "$0"): $1 is no flag of the released script; see liveavatar render --help" >&2; exit 2 ;;
    esac
  done
}
