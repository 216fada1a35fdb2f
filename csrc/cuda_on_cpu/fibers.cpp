#include "fibers.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_on_cpu.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "fibers.cpp switches stacks by x86-64 instructions"
#endif

// Saves what a called function must keep, and goes on where `to` was left.
asm(R"(
.text
.type tsgen_switch_stack, @function
tsgen_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tsgen_switch_stack, .-tsgen_switch_stack
)");
extern "C" void tsgen_switch_stack(void** from, void* to);

namespace cuda_on_cpu {
namespace {

enum class State { ready, at_lanes, at_block, done };

struct Copy {
  void* to;
  const void* from;
  size_t n_bytes;
};

constexpr size_t STACK = 256 * 1024;  // bytes; only what is touched is taken

struct Fiber {
  char* stack;
  void* at = nullptr;  // its stack pointer while another runs
  void* fake_stack = nullptr;
  State state = State::done;
  unsigned mask = 0;  // of the lanes that it waits for
  // the one that others read, and the one that is written meanwhile
  alignas(16) unsigned char mailbox[2][MAILBOX];
  unsigned readable = 0;
  std::vector<Copy> copies;  // since the last group ended
  std::deque<std::vector<Copy>> groups;
};

std::mutex one_grid;
std::vector<std::unique_ptr<Fiber>> fibers;
const std::function<void()>* body;
unsigned current, n_running, turn;
void* scheduler_at;
void* scheduler_fake_stack;
const void* scheduler_stack;
size_t scheduler_stack_size;
std::unique_ptr<char[]> shared;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "CUDA on the CPU: block %u: %s\n", blockIdx.x, what);
  for (unsigned t = 0; t < n_running; ++t) {
    static const char* const names[] = {"runs", "waits for lanes", "waits for the block", "ended"};
    const Fiber& fiber = *fibers[t];
    if (t == 0 || fiber.state != fibers[t - 1]->state || fiber.mask != fibers[t - 1]->mask)
      std::fprintf(stderr, "  thread %u: %s (mask %08x)\n", t, names[(int)fiber.state], fiber.mask);
  }
  std::abort();
}

// AddressSanitizer has to know which stack is in use.
void leave(void** fake_stack, const void* stack, size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake_stack, stack, size);
#else
  (void)fake_stack, (void)stack, (void)size;
#endif
}

void arrive(void* fake_stack, const void** from_stack, size_t* from_size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, from_stack, from_size);
#else
  (void)fake_stack, (void)from_stack, (void)from_size;
#endif
}

void to_scheduler(State state) {
  Fiber& fiber = *fibers[current];
  fiber.state = state;
  leave(state == State::done ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_stack_size);
  tsgen_switch_stack(&fiber.at, scheduler_at);
  arrive(fiber.fake_stack, nullptr, nullptr);
}

void begin() {
  arrive(nullptr, &scheduler_stack, &scheduler_stack_size);
  (*body)();
  if (!fibers[current]->copies.empty() || !fibers[current]->groups.empty())
    fail("a thread ends with copies that nobody waited for");
  to_scheduler(State::done);
  std::abort();  // a fiber that has ended is not resumed
}

void start(Fiber& fiber) {
  void** top = reinterpret_cast<void**>(fiber.stack + STACK);
  *--top = nullptr;  // so that begin() finds its stack aligned as after a call
  *--top = reinterpret_cast<void*>(&begin);
  fiber.at = top - 6;  // what tsgen_switch_stack pops
  fiber.fake_stack = nullptr;
  fiber.state = State::ready;
  fiber.mask = fiber.readable = 0;
}

void resume(unsigned thread) {
  current = thread;
  threadIdx.x = thread;
  Fiber& fiber = *fibers[thread];
  leave(&scheduler_fake_stack, fiber.stack, STACK);
  tsgen_switch_stack(&scheduler_at, fiber.at);
  arrive(scheduler_fake_stack, nullptr, nullptr);
}

// Whether all that `fiber` waits for are there, for the same lanes.
bool lanes_are_there(unsigned first, unsigned mask) {
  for (unsigned lane = 0; lane < WARP && first + lane < n_running; ++lane) {
    const Fiber& other = *fibers[first + lane];
    if (mask >> lane & 1 && (other.state != State::at_lanes || other.mask != mask)) return false;
  }
  return true;
}

// Runs a warp until every thread waits for the block or has ended.
void run_warp(unsigned first) {
  const unsigned n = first + WARP <= n_running ? WARP : n_running - first;
  for (;;) {
    for (unsigned i = 0; i < n; ++i) {
      const unsigned thread = first + (turn % 2 ? n - 1 - i : i);
      if (fibers[thread]->state == State::ready) resume(thread);
    }
    unsigned released = 0, waiting = 0;
    for (unsigned i = 0; i < n; ++i) {
      const Fiber& fiber = *fibers[first + i];
      if (fiber.state != State::at_lanes) continue;
      ++waiting;
      if (!(fiber.mask >> i & 1)) fail("a thread waits for lanes without being one of them");
      if (lanes_are_there(first, fiber.mask)) released |= 1u << i;
    }
    if (waiting == 0) return;
    if (released == 0) fail("some lanes of a warp wait for lanes that do not come");
    for (unsigned i = 0; i < n; ++i) {
      if (!(released >> i & 1)) continue;
      fibers[first + i]->state = State::ready;
      fibers[first + i]->readable ^= 1;
    }
  }
}

void run_block() {
  for (unsigned t = 0; t < n_running; ++t) start(*fibers[t]);
  const unsigned n_warps = (n_running + WARP - 1) / WARP;
  for (unsigned ended = 0; ended < n_running;) {
    for (unsigned w = 0; w < n_warps; ++w) run_warp(WARP * (turn % 2 ? n_warps - 1 - w : w));
    ++turn;
    ended = 0;
    for (unsigned t = 0; t < n_running; ++t) ended += fibers[t]->state == State::done;
    if (ended != 0 && ended != n_running) fail("some threads wait for the block, others ended");
    for (unsigned t = 0; t < n_running && ended == 0; ++t) fibers[t]->state = State::ready;
  }
}

void grow(unsigned n) {
  while (fibers.size() < n) {
    fibers.push_back(std::make_unique<Fiber>());
    void* const stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) fail("no memory for a stack");
    fibers.back()->stack = static_cast<char*>(stack);
  }
}

}  // namespace

void run_grid(const std::function<void()>& kernel, unsigned n_blocks, unsigned n_threads,
              size_t shared_bytes) {
  const std::lock_guard<std::mutex> lock(one_grid);
  grow(n_threads);
  body = &kernel;
  n_running = n_threads;
  shared.reset(new char[shared_bytes]);
  gridDim.x = n_blocks, blockDim.x = n_threads;
  for (blockIdx.x = 0; blockIdx.x < n_blocks; ++blockIdx.x) {
    std::memset(shared.get(), 0xff, shared_bytes);
    turn = blockIdx.x;
    run_block();
  }
  shared.reset();
}

void wait_for_block() { to_scheduler(State::at_block); }

void wait_for_lanes(unsigned mask) {
  fibers[current]->mask = mask;
  to_scheduler(State::at_lanes);
}

void write_mailbox(const void* value, size_t n_bytes) {
  if (n_bytes > MAILBOX) fail("a value too large for a lane's mailbox");
  Fiber& fiber = *fibers[current];
  std::memcpy(fiber.mailbox[fiber.readable ^ 1], value, n_bytes);
}

const void* mailbox_of(unsigned of) {
  const unsigned thread = current / WARP * WARP + of;
  if (thread >= n_running) fail("a lane reads from one that does not exist");
  return fibers[thread]->mailbox[fibers[thread]->readable];
}

unsigned lane() { return current % WARP; }

char* shared_memory() { return shared.get(); }

void copy_later(void* to, const void* from, size_t n_bytes) {
  if (n_bytes > 0) fibers[current]->copies.push_back({to, from, n_bytes});
}

void end_copy_group() {
  Fiber& fiber = *fibers[current];
  fiber.groups.push_back(std::move(fiber.copies));
  fiber.copies.clear();
}

void wait_for_copies(unsigned groups_left) {
  Fiber& fiber = *fibers[current];
  for (; fiber.groups.size() > groups_left; fiber.groups.pop_front())
    for (const Copy& copy : fiber.groups.front()) std::memcpy(copy.to, copy.from, copy.n_bytes);
}

}  // namespace cuda_on_cpu
