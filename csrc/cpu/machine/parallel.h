// One loop over many threads, for every CPU kernel.
#pragma once

#include <cstdint>

namespace tsgen::cpu {

using Task = void(const void* work, int64_t task, int64_t thread);

// Calls run(work, task, thread) once for every task in [0, n_tasks), on at most n_threads threads.
void run_tasks(int64_t n_tasks, int64_t n_threads, Task* run, const void* work);

// Run loops on PyTorch's threads from now on, by its OpenMP's GOMP_parallel; 0: on our own.
void lend_threads(uintptr_t gomp_parallel);

// Calls work(task, thread) once for every task. Which thread runs a task is chance, so a result may
// depend on the task alone; `thread` < n_threads is for scratch memory. `work` must not throw.
template <typename Work>
void parallel_for(int64_t n_tasks, int64_t n_threads, const Work& work) {
  const auto run = [](const void* w, int64_t task, int64_t thread) {
    (*static_cast<const Work*>(w))(task, thread);
  };
  run_tasks(n_tasks, n_threads, run, &work);
}

// Threads worth waking for so many multiplications, or as much other work.
static inline int64_t useful_threads(int64_t n_threads, int64_t multiplications) {
  const int64_t most = 1 + (multiplications >> 18);  // about 10 us of work each
  return n_threads < most ? (n_threads < 1 ? 1 : n_threads) : most;
}

}  // namespace tsgen::cpu
