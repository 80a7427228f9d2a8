"""Slow twins of the kernels, written from the model alone: float64, plain loops, nothing of ours.

They are the oracle of `test_kernels.py`, so they must stay obvious rather than fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class PixelEvents:
    """What one pixel reports: crossing times (float microseconds), polarities, slopes per us.

    `unclear` tells that the log intensity turned, or ended, so close to a threshold that float32
    and float64 may rightly disagree on whether it was reached.
    """

    times: list[float] = field(default_factory=list)
    polarities: list[int] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)
    final_reference: float = 0.0
    unclear: bool = False


def look_up(log_picture, warp, x, y):
    """Bilinear value of the picture where sensor pixel (x, y) looks."""
    u, v, w = (row[0] * x + row[1] * y + row[2] for row in warp)
    u, v = u / w, v / w
    left, top = math.floor(u), math.floor(v)
    value = 0.0
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight = (1 - abs(u - column)) * (1 - abs(v - row))
            value += weight * float(log_picture[row][column])
    return value


def pixel_events(values, times, on, off, unclear_within):
    """Events of one pixel whose log intensity goes linearly through (times, values)."""
    result = PixelEvents()
    reference = values[0]
    for k in range(1, len(values)):
        before, now = values[k - 1], values[k]
        while True:
            if now >= reference + on:
                reference, polarity = reference + on, 1
            elif now <= reference - off:
                reference, polarity = reference - off, 0
            else:
                break
            slope = (now - before) / (times[k] - times[k - 1])
            result.times.append(times[k - 1] + (reference - before) / slope)
            result.polarities.append(polarity)
            result.slopes.append(abs(slope))
        turns = k == len(values) - 1 or (values[k + 1] - now) * (now - before) <= 0
        if turns and now != before:
            levels = [reference + on, reference - off]
            if result.times:
                levels.append(reference)
            if any(abs(now - level) < unclear_within for level in levels):
                result.unclear = True
    result.final_reference = reference
    return result


def esim_counts(frames, on, off):
    """Events per pixel by ESIM's published rule (Rebecq et al. 2018, its C++ core), in float64.

    Frame after frame, from the last level that fired on by thresholds in the direction of the
    change, each level that lies beyond the frame before and not beyond the new one.
    """
    height, width = frames[0].shape
    counts = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            level = float(frames[0][y, x])
            for k in range(1, len(frames)):
                a, b = float(frames[k - 1][y, x]), float(frames[k][y, x])
                step = on if b > a else -off
                while (a < level + step <= b) if step > 0 else (b <= level + step < a):
                    level += step
                    counts[y, x] += 1
    return counts


def sensor_events(log_picture, warps, times, on, off, width, height, unclear_within):
    """`pixel_events` of every pixel of the sensor, as a dict (x, y) -> PixelEvents."""
    picture = np.asarray(log_picture, dtype=np.float64).tolist()
    path = np.asarray(warps, dtype=np.float64).tolist()
    moments = [float(t) for t in times]
    return {
        (x, y): pixel_events(
            [look_up(picture, warp, x, y) for warp in path], moments, on, off, unclear_within
        )
        for y in range(height)
        for x in range(width)
    }


def mix(h):
    """SplitMix64's finaliser, in whole numbers of any size."""
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) % 2**64
    return h ^ (h >> 31)


def uniform(seed, purpose, pixel, n):
    """A draw of chance in (0, 1), named by what it is for."""
    h = seed
    for part in (purpose + 1, pixel, n):
        h = mix((h + part * 0x9E3779B97F4A7C15) % 2**64)
    return ((h >> 11) + 0.5) / 2**53


def normal(seed, purpose, pixel):
    """A draw of mean 0 and variance 1: the sum of twelve 16-bit draws, of three hashes."""
    total = 0.0
    for n in range(3):
        h = seed
        for part in (purpose + 1, pixel, n):
            h = mix((h + part * 0x9E3779B97F4A7C15) % 2**64)
        total += sum((h >> bits) % 2**16 for bits in (0, 16, 32, 48))
    return (total - 12 * (2**16 - 1) / 2) / 2**16


def camera_events(
    times, values, on, off, refractory_us, shot_noise_hz, seed, pixel, phase, leak_per_us
):
    """Events (time, polarity) of one pixel of a camera that rests, leaks and is noisy.

    From event to event over the whole path: the next crossing and the next noise event are looked
    for, and the earlier one happens.
    """
    wait, accept, coin = 6, 7, 8

    def seen(t):
        return float(np.interp(t, times, values)) + leak_per_us * t

    def next_crossing(since, reference):
        corners = [since] + [t for t in times if t > since]
        for n in range(1, len(corners)):
            start, stop = corners[n - 1], corners[n]
            low, high = seen(start), seen(stop)
            for level, polarity in ((reference + on, 1), (reference - off, 0)):
                reached = high >= level if polarity else high <= level
                if reached:
                    share = (level - low) / (high - low) if high != low else 0.0
                    return start + max(share, 0.0) * (stop - start), polarity, level
        return math.inf, None, None

    reference, now, found = values[0] - phase, 0.0, []
    came, number = 0.0, 0
    if shot_noise_hz:
        came = -math.log(uniform(seed, wait, pixel, 0)) / shot_noise_hz * 1e6
    while True:
        moment, polarity, level = next_crossing(now, reference)
        noise = None
        while shot_noise_hz and came < min(moment, times[-1]):
            at, n = came, number
            number += 1
            came += -math.log(uniform(seed, wait, pixel, number)) / shot_noise_hz * 1e6
            light = min(math.exp(float(np.interp(at, times, values))), 1.0)
            if at >= now and uniform(seed, accept, pixel, n) < 1 - 0.75 * light:
                noise = at, 1 if uniform(seed, coin, pixel, n) < 0.5 else 0
                break
        if noise:
            moment, polarity = noise
            level = seen(moment)
        if polarity is None:
            return found
        found.append((moment, polarity))
        reference, now = level, moment
        if refractory_us:
            now = moment + refractory_us
            if now >= times[-1]:
                return found
            reference = seen(now)


def photoreceptor(times_us, values, bandwidth_hz, parts):
    """Low-pass of first order, its speed following the light, by many small midpoint steps."""
    out = [values[0]]
    for k in range(1, len(values)):
        v, step = out[-1], (times_us[k] - times_us[k - 1]) / parts
        for n in range(parts):
            share = (n + 0.5) / parts
            u = values[k - 1] + share * (values[k] - values[k - 1])
            speed = 2e-6 * math.pi * bandwidth_hz * (math.exp(u) + 20 / 255) / (1 + 20 / 255)
            middle = v + 0.5 * step * speed * (u - v)
            v += step * speed * (u - middle)
        out.append(v)
    return out


def read_rows(t, y, row_us):
    """When an arbiter reads each event: it looks for waiting rows whenever it is free."""
    read_at, left, free = [0.0] * len(t), list(range(len(t))), 0.0
    while left:
        free = max(free, t[left[0]])
        rows = {}
        for n in left:
            if t[n] <= free:
                rows.setdefault(y[n], []).append(n)
        row = min(rows, key=lambda r: rows[r][0])
        free += row_us
        for n in rows[row]:
            read_at[n] = free
        left = [n for n in left if n not in rows[row]]
    return read_at


def sort_by_time(x, y, t, p):
    """Events sorted by (t, y, x), equal ones in their given order."""
    return sorted(zip(x, y, t, p, strict=True), key=lambda event: (event[2], event[1], event[0]))


def luminance(rgb):
    """Linear luminance in [0, 1] of an sRGB picture, pixel by pixel (IEC 61966-2-1, BT.709)."""
    rgb = np.asarray(rgb)
    out = np.zeros(rgb.shape[:2])
    for y in range(rgb.shape[0]):
        for x in range(rgb.shape[1]):
            linear = [
                c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                for c in (float(code) / 255.0 for code in rgb[y, x])
            ]
            out[y, x] = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return out


def area_means(image, width, height):
    """A picture (h, w, channels) reduced to height rows of width: means of the areas covered."""
    image = np.asarray(image, np.float64)
    down, across = image.shape[0] / height, image.shape[1] / width
    out = np.zeros((height, width, image.shape[2]))
    for y in range(height):
        for x in range(width):
            total = 0.0
            for j in range(image.shape[0]):
                tall = min(j + 1, (y + 1) * down) - max(j, y * down)
                for i in range(image.shape[1]) if tall > 1e-12 else ():
                    wide = min(i + 1, (x + 1) * across) - max(i, x * across)
                    if wide > 1e-12:
                        out[y, x] += tall * wide * image[j, i]
                        total += tall * wide
            out[y, x] /= total
    return out


def blur(image, sigma):
    """Gaussian blur by explicit convolution, mirrored at the border (edge pixel repeated)."""
    radius = math.ceil(6 * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padding = [(radius, radius) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(image, padding, mode="symmetric")
        image = np.apply_along_axis(lambda line: np.convolve(line, weights, "valid"), axis, padded)
    return image


def official_histogram(events, size):
    """The released evaluator's event image of one sample, in float32, step by step.

    events: (x, y, t, p) with x, y in input pixels. Order of operations as published.
    """
    counts = np.zeros((2, size, size), np.float32)
    for x, y, _, p in events:
        counts[0 if p else 1, y, x] += 1
    nonzero = np.sort(counts[counts > 0.1])
    if len(nonzero):
        rank = np.float32(0.75) * np.float32(len(nonzero) - 1)
        low = math.floor(rank)
        high = min(low + 1, len(nonzero) - 1)
        share = np.float32(rank - np.float32(low))
        quantile = nonzero[low] + share * (nonzero[high] - nonzero[low])
        limit = np.float32(np.float32(quantile / np.float32(10)) * np.float32(10))
        counts = np.minimum(counts, limit)
    scaled = counts / (counts.max(axis=(1, 2), keepdims=True) + np.float32(1))
    return ((scaled[0] + scaled[1]) / np.float32(2)).astype(np.float32)


def voxel_grid(events, size, bins):
    """Signed events spread over their two nearest time bins, scaled by the largest magnitude."""
    grid = np.zeros((bins, size, size))
    for x, y, t, p in events:
        place = t * (bins - 1)
        for b in range(bins):
            grid[b, y, x] += (1 if p else -1) * max(0.0, 1 - abs(place - b))
    return grid / max(1.0, np.abs(grid).max())


def infonce(a, b, temperature):
    """Symmetric InfoNCE of paired rows, by explicit sums."""
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    b = b / np.linalg.norm(b, axis=1, keepdims=True)
    n, total = len(a), 0.0
    for first, second in ((a, b), (b, a)):
        for i in range(n):
            scores = [math.exp(first[i] @ second[j] / temperature) for j in range(n)]
            total -= math.log(scores[i] / sum(scores))
    return total / (2 * n)
