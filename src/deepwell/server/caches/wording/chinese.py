"""Normal forms of Chinese questions, made character by character: polite phrases go, and equal phrases become one.

There is no word segmentation that could be wrong. A rule is a pattern of characters that asks the same wherever it stands.
What no rule names stays, so a different 不, 没, number, name or measure word is a difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["chinese_form"]

_POLITE_STARTS = re.compile(
    r"^(?:你好|您好|请问(?:一下|下)?|想请问(?:一下)?|请教(?:一下)?|我?想问(?:一下|下|问)?|我?想(?:要)?(?:知道|了解)(?:一下)?|麻烦(?:你|您)?|劳驾|"
    r"(?:你|您)?(?:能不能|能否|可不可以|可以|能)(?:请你)?(?:告诉我|跟我说)(?:一下)?|请?告诉我(?:一下)?|请(?:你|您)?(?:帮我)?(?=告诉|解释|介绍|列出|翻译|写|说明|总结|把|给我|描述|比较|推荐|计算|举)|请?帮我)[,，\s]*"
)
_KNOWS = re.compile(r"^(?:你|您)(?:知道|知不知道)(.+?)(?:吗)?$")
_POLITE_ENDS = re.compile(r"[,.!?;~\s]*(?:谢谢(?:你|您)?|多谢|感谢)?[,.!?;~\s]*$")
_PARTICLES = re.compile(r"(?:呢|啊|呀|哦|哈|嘛)+$")

_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"为何|为啥|干嘛要|是什么原因(?:导致)?", "为什么"),
    (r"啥时候|何时|几时|什么时间(?=[^点])", "什么时候"),
    (r"哪儿|什么地方|何处|啥地方", "哪里"),
    (r"哪位|什么人", "谁"),
    (r"啥", "什么"),
    (r"^我?(?:应该|应|该|要|需要)?(?=如何|怎样|怎么|咋)", ""),
    (r"(?:如何|怎样|怎么样|咋|怎么)(?:才能)?(?=[\u4e00-\u9fff])", "怎么"),
    (r"^(?:有)?什么(?:方法|办法)(?:可以|能|能够)", "怎么"),
    (r"^(.+?)(?:的)?(?:方法|步骤|办法)(?:是什么|有哪些)$", r"怎么\1"),
    (r"^我(?=怎么)", ""),
    (r"^(?:什么是|何为|何谓|什么叫(?:做)?)(.+)$", r"\1是什么"),
    (r"^(.+?)(?:指的是什么|是指什么|是什么东西)$", r"\1是什么"),
    (r"^(?:解释|介绍|说明)一下", lambda match: match[0][:2]),
    (r"^(.+)位于哪里$", r"\1在哪里"),
    (r"(首都|省会|首府)是哪里$", r"\1在哪里"),
    (r"计算机|电脑", "电脑"),
    (r"移动电话|手机", "手机"),
    (r"购买", "买"),
    (r"价钱|售价|价格", "价格"),
    (r"自行车|单车|脚踏车", "自行车"),
    (r"马铃薯|土豆", "土豆"),
    (r"番茄|西红柿", "西红柿"),
    (r"(?:礼拜|星期|周)(?=[一二三四五六日天末])", "周"),
    (r"(?<=周)天", "日"),
    (r"今日", "今天"),
    (r"明日", "明天"),
    (r"昨日", "昨天"),
    (r"互联网|因特网", "互联网"),
    (r"相片|照片", "照片"),
    (r"洗手间|卫生间|厕所", "厕所"),
    (r"父亲|爸爸", "爸爸"),
    (r"母亲|妈妈", "妈妈"),
    (r"登陆(?=账|帐|系统|网站|邮箱)", "登录"),
    (r"帐号|帐户|账户|账号", "账号"),
    (r"重新设置|重设|重置", "重置"),
    (r"开启|启用|打开", "打开"),
    (r"关掉|停用|关闭", "关闭"),
    (r"修改|更改", "修改"),
    (r"多少钱一([个斤张本台部])", r"一\1多少钱"),
    (r"的价格是多少$|价格是多少$|要多少钱$|多少钱$", "多少钱"),
    (r"有多少(?=人口|人|个|名|只|种)", "多少"),
)
_NUMERALS = {
    "零": 0,
    "一": 1,
    "二": 2,
    "两": 2,
    "三": 3,
    "四": 4,
    "五": 5,
    "六": 6,
    "七": 7,
    "八": 8,
    "九": 9,
    "十": 10,
}
_COUNTED = "个只本年月日天小分秒元块公千克斤米岁号楼层次倍度人名张台部条件种位"
_MEASURES = (
    (r"(?<=\d)\s*(?:公里|千米|km)", "公里"),
    (r"(?<=\d)\s*(?:公斤|千克|kg)", "公斤"),
    (r"(?<=\d)\s*(?:厘米|公分|cm)", "厘米"),
    (r"(?<=\d)\s*(?:个小时|小时)", "小时"),
    (r"(?<=\d)\s*(?:块钱|元钱|块(?!钱)|元)", "元"),
    (r"(?<=\d)\s*(?:美金|美元)", "美元"),
)


def chinese_form(text: str) -> str:
    """Returns the normal form, or an empty string if nothing is left."""
    head, colon, tail = text.partition(":")
    if colon:  # the text to work on stays as it is
        return f"{_form(head)}:{tail.strip()}"
    return _form(text)


def _form(text: str) -> str:
    if '"' in text:  # quotations are often names: they and the text around them stay as they are
        return text.strip(" .?!")
    text = re.sub(r"(?<=[\u3400-\u9fff])\s+|\s+(?=[\u3400-\u9fff])", "", text)
    before = None
    while before != text:
        before = text
        text = _POLITE_ENDS.sub("", text)
        text = _POLITE_STARTS.sub("", text)
        text = _PARTICLES.sub("", text)
    asked = _KNOWS.match(text)
    if asked and re.search(r"什么|怎|谁|哪|多少|几|为何", asked[1]):
        text = asked[1]
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(rf"([零一二两三四五六七八九十]+)(?=[{_COUNTED}])", _number, text)
    for pattern, unit in _MEASURES:
        text = re.sub(pattern, unit, text, flags=re.IGNORECASE)
    for pattern, new in _RULES:
        text = re.sub(pattern, new, text)
    text = re.sub(r"(?<![目真])的(?![确士])", "", text)
    return re.sub(r"[,\s]+", " ", text).strip()


def _number(match: re.Match[str]) -> str:
    """Writes numerals up to 99 as digits. 一下, 一些 and the like are no numbers, and larger ones stay as they are."""
    text = match[1]
    if text == "一" or len(text) > 3:
        return text
    if len(text) == 1:
        return str(_NUMERALS[text])
    tens, ten, ones = text.partition("十")
    if not ten or len(tens) > 1 or len(ones) > 1 or "十" in ones:
        return text
    return str((_NUMERALS[tens] if tens else 1) * 10 + (_NUMERALS[ones] if ones else 0))
