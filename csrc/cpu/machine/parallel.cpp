// The threads behind parallel_for: PyTorch's own, if it has lent them, else a pool that sleeps.
//
// PyTorch's OpenMP threads spin for some milliseconds after each of its loops, and while they do no
// other thread gets their cores: in between PyTorch's operations a pool of ours came too late. So
// loops run on that very OpenMP, called through the address of its GOMP_parallel; nothing is
// linked. Its threads do not survive fork(): a child goes on with the pool, which starts anew
// there.
//
// Several Python threads may call at once: each has its own loop, the pool's go where work is.
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

  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<int64_t> lent{1};  // threads of PyTorch's that ever took part

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

// GOMP_parallel(function, data, threads, flags) of PyTorch's OpenMP, or null.
using Lent = void(void (*)(void*), void*, unsigned, unsigned);
std::atomic<Lent*> lent_threads{nullptr};

Pool& pool() {
  static const bool once = [] {
    the_pool = new Pool;
    pthread_atfork([] { the_pool->mutex.lock(); }, [] { the_pool->mutex.unlock(); },
                   [] {
                     the_pool = new Pool;
                     lent_threads = nullptr;
                   });
    return true;
  }();
  (void)once;
  return *the_pool;
}

void run_lent(void* data) {
  Loop& loop = *static_cast<Loop*>(data);
  // thread 0 is the caller, who may ask Python things
  const bool caller = std::this_thread::get_id() == loop.caller;
  loop.take_part(caller ? 0 : loop.lent.fetch_add(1));
}

}  // namespace

void run_tasks(int64_t n_tasks, int64_t n_threads, Task* run, const void* work) {
  if (n_threads > n_tasks) n_threads = n_tasks;
  if (n_threads <= 1) {
    for (int64_t task = 0; task < n_tasks; ++task) run(work, task, 0);
    return;
  }
  Loop loop{run, work, n_tasks, n_threads};
  if (Lent* const lent = lent_threads.load())
    lent(run_lent, &loop, (unsigned)n_threads, 0);
  else
    pool().run(loop);
}

void lend_threads(uintptr_t gomp_parallel) {
  pool();  // from now on fork() is seen
  lent_threads = reinterpret_cast<Lent*>(gomp_parallel);
}

}  // namespace tsgen::cpu
