// The pool of threads behind parallel_for. They sleep between loops; nobody spins.
//
// std::thread, not OpenMP: PyTorch brings its own OpenMP, and two of them in one process fight for
// the cores. Several Python threads may call at once: each has its own loop, helpers go where work
// is. After fork() the child has no helpers and no locked mutex: it starts with a new pool.
#include "machine/parallel.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace tsgen::cpu {
namespace {

struct Loop {
  Task* run;
  const void* work;
  int64_t n_tasks, n_threads;
  std::atomic<int64_t> next{0};
  int64_t joined = 1, inside = 0;  // threads that ever took part, helpers at work: under the mutex

  void take_part(int64_t thread) {
    for (int64_t task; (task = next.fetch_add(1)) < n_tasks;) run(work, task, thread);
  }
  bool wants_help() const { return joined < n_threads && next.load() < n_tasks; }
};

class Pool {
 public:
  void run(Loop& loop) {
    {
      const std::lock_guard lock(mutex);
      loops.push_back(&loop);
      grow(loop.n_threads - 1);
    }
    for (int64_t i = 1; i < loop.n_threads; ++i) work_to_do.notify_one();
    loop.take_part(0);
    std::unique_lock lock(mutex);
    for (auto it = loops.begin(); it != loops.end(); ++it)
      if (*it == &loop) {
        loops.erase(it);
        break;
      }
    helper_left.wait(lock, [&] { return loop.inside == 0; });
  }

  std::mutex mutex;

 private:
  void grow(int64_t n_helpers) {
    try {
      for (; n_started < n_helpers; ++n_started) std::thread(&Pool::help, this).detach();
    } catch (const std::system_error&) {
      // no more threads to be had: those that started do the same work, later
    }
  }

  [[noreturn]] void help() {
    std::unique_lock lock(mutex);
    for (;;) {
      Loop* const loop = find();
      if (!loop) {
        work_to_do.wait(lock);
        continue;
      }
      const int64_t thread = loop->joined++;
      ++loop->inside;
      lock.unlock();
      loop->take_part(thread);
      lock.lock();
      if (--loop->inside == 0) helper_left.notify_all();
    }
  }

  Loop* find() const {
    for (Loop* loop : loops)
      if (loop->wants_help()) return loop;
    return nullptr;
  }

  std::condition_variable work_to_do, helper_left;
  std::vector<Loop*> loops;
  int64_t n_started = 0;
};

// Never deleted: helpers wait in it when the process ends.
Pool* the_pool = nullptr;

Pool& pool() {
  static const bool once = [] {
    the_pool = new Pool;
    pthread_atfork([] { the_pool->mutex.lock(); }, [] { the_pool->mutex.unlock(); },
                   [] { the_pool = new Pool; });
    return true;
  }();
  (void)once;
  return *the_pool;
}

}  // namespace

void run_tasks(int64_t n_tasks, int64_t n_threads, Task* run, const void* work) {
  if (n_threads > n_tasks) n_threads = n_tasks;
  if (n_threads <= 1) {
    for (int64_t task = 0; task < n_tasks; ++task) run(work, task, 0);
    return;
  }
  Loop loop{run, work, n_tasks, n_threads};
  pool().run(loop);
}

}  // namespace tsgen::cpu
