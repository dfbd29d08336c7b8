// Kernels that put weights in place: conversion of what files hold, and random ones made on the card. Plain C++17.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backend/tensor.h"

namespace fastgen::device {

// Whether the build holds kernels for the current device: asked of one of them.
bool has_kernels();

// to[i] = from[i] for n elements in device memory; from is f32, bf16 or f16, to f32 or bf16.
void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t n, cudaStream_t stream);

// Elements 0 .. n - 1 of the generator's stream (backend/random_weights.h), as f32 or bf16.
void fill_random(std::uint64_t seed, std::uint64_t random_stream, std::int64_t n, void* to, DType dtype, cudaStream_t stream);

}  // namespace fastgen::device
