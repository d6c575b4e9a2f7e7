"""One module a contender, with a function `render(net, task, clock, ...) -> [B, 3, H, W] in 0..1`."""
