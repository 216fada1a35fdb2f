// The threads of a CUDA block, as fibers of one CPU thread: each runs until it waits for others.
//
// A wait that not all come to ends the process and says who is missing. The order in which threads
// run turns round with every block and every barrier, so that what only one order gets right (a
// barrier is missing) shows as a wrong result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace cuda_on_cpu {

constexpr unsigned WARP = 32, MAILBOX = 64;  // bytes that a lane can tell the others

// Runs a grid, one block after another. Only one at a time: a second one waits.
void run_grid(const std::function<void()>& body, unsigned n_blocks, unsigned n_threads,
              size_t shared_bytes);

// Of the thread that runs now.
void wait_for_block();
void wait_for_lanes(unsigned mask);
// What `lane` of the same warp wrote into its mailbox before all last waited for each other.
void write_mailbox(const void* value, size_t n_bytes);
const void* mailbox_of(unsigned lane);
unsigned lane();
// The block's memory: exactly as large as asked for, full of NaN when the block begins.
char* shared_memory();
// Copies that arrive only when they are waited for, as cp.async does.
void copy_later(void* to, const void* from, size_t n_bytes);
void end_copy_group();
void wait_for_copies(unsigned groups_left);

}  // namespace cuda_on_cpu
