"""Checkpoints and pickles of earlier versions: they load, and training continues as if it had never stopped.

A pickle names the modules of its classes, so these modules must stay where they are. A checkpoint names none.
"""

import base64
import io
import pickle
import pickletools
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from thalweg import optim

# Made by the code of November 2026, after three steps: ``pickle.dumps(optimizer)`` or ``torch.save(state_dict)``,
# compressed by zlib and written in base 85.
OLD = {
    "adamw, pickle": (
        "c-q}n--"
        "{bX9N#3HOD?(7qHVQ^MFb_G5YprtE}=GBYWuKUt1Wl|DZ}jUTy}M{vpYX>J@N4R;9Vnw3XY)Si!X=ZAD}`j_}tSMMG&9#K@kM?NeVvnyL&O_"
        "@Q}W?^N^kI_w&i@cRuso`D~c)>VlCDH7`6Itdf3>M#3Lxm4C*?gJu1Wu3pvax}u6MS-"
        "~<8JdLse)91RMzn_c`RNf{6b4dKQlZ>y<b$|cs>+cV59oy6@M<PH@J-"
        "hbiPj%H%bF0Mfdjh${!D~}X6!3ue8FuwZ6$ki=Kk#26dL&hz3oM9MWrqd<afDAp4$-(6*LMVzsEW4q1K}r-"
        "InKSVFKRU>D093TlEM!FdjK(#FkKX3h6h9t22AgvDL{~rQ-+2O04g9#`hN}&+=nU-pnzf*tuQ)3_L?9ZSf?M%7{*5SjZ*OUhi7j+_R`1C9jR"
        "?(mwwH`?|N)hdIvz>h*3dd3us6fhdsm@AoS(|349>}f=KB4IE=H`dL>ATwTK`N67V>;9-"
        "Eb39+KRnOvHIB+si@Zha#S_%$}L7LBoDruuLi8ot0j4q~nrf!%4SLItzu1OS{QZoax;MoOZL_YPaf(Cl(eL>-"
        "BhdT_=)p&YC$dV)J=e?Q(4F$Ial{%x>ctPrCK)!DZat*g@SRx3;>QpS{=J_CM;TCtw*?*2-;aD`#ak^~k$ll`k-"
        "tFyfxsJ*MhKEr55;dje)#FiX12<bp)nd!*tWJ#F3%>Yky}4#>XpHX94gM)O2tkGz@v<(+Ur-i$FlicgQ_tX4;<REcP+K(0gx5Bp=O?(#-"
        "#Hd>8^<E=Yt#0ht*5q~LHPHkWP^!nRR{dn@{rEjmR7hb(l+B)>bzKuB1ur$^X@%UbmvDt3a+pRm3am<~ParD~F&JXsNo$VJ@d*_=!I)4to>p"
        "cDm@BFWflB>D&PDOo2CEWOz(+_zj%_Wg{410yib?+6uS+6v41+V-sGB@((M-r<%8c-Lm+(-"
        "BLQjH98AaP;?W87Ry9uu1?{X+=*U?sB=VL~#SB))Rc!yIwq(9lJR)%YX?Hyf#klY>EY<-"
        "gc@uq);Zf*dN7xGHT`L^gI_hT{cv7Oi3y!mGerj_$3K6Oq&~MJO)A^g`%N6<bDJMiC>Nrv(;}ppoxz{g#%tv}?BkYn_NU"
    ),
    "clipped, pickle": (
        "c-q}oO>7%Q6t-hKN#i6<oAA>@f1nf`3U2-zM^N`CZ4Oq`(gL+AMWgZV#Ivx!GqZM56sbrw^`a3RIv`OYRiGllg*#F?!U-zihPY7RQV9t-"
        "A*6zMyX!cPD5%%62k*{%-@JM6oA><Qh4fqbY$AH(c0sXOC)K>;3d71X-"
        "y}#gG3SIU*^g{eN0G)jPnf!_<U?!t5Xtj(hFzC1p4UvnRWf}vd|g(<uc{T5lNrOdVVfM>xC!gnsw<f}4DYk+=nj*qx#FqHiEn=U=(fyMh`^&"
        "D`1y<Q`7#!af#8?lZ+v_IrF}9*T(0I09$S9nhY>j=d+WrgQh{`$;bnlmcK+tv$3w5kE^P5C!@3G&r(oC+5ZJbj4rvY}`88eV^YO=e6kKy$qG"
        "Xns#3Ht+8yr>{n-Cq~-"
        "Jxv*#7YiDB2=dikZ57S3=LQe<RBxSPq^SfC1F??jvb0ObKi9x24e1F1~vnkHSzi7_2obdp*faok|ouUeJxqd!Y&Bf%uvk0rH1Ub3>)c&#Z@T"
        "*3%nFB=4Bs5%7_Noih)C9)?^5<TwoC%*b817;5p$4E(2V2>NZE<4z`GZYX(tQ#qn*Ogmi9p8R3N00Bt+W3bjLwxF*)3{fKLn=s<7?rI;g9!)"
        "9zOgl@4N$3>2fAhR6QyrDrK5)UzK>yCwN->Sri_SY~oKv4m51aU#KRr6U53!f42A6x^|s+5#lAUYpHv;~}wP2dr(P!4L~GX!lJkk@)-"
        "BD6XXIu()@$zldJudRs?hF#@qSoTFeS&mN3h!wx$S7KJfs3FsSjcbVx(Ffv`q1$C9!YleP-9dK-bXP!k2lSDEKH8vr8uYOS-"
        "CIh~$LHx24Vnw+a6q37=)QnH70{;xnh)syfQ|%oG@xUpBpqK-bTXh*0X;BGry~b0s?$+&cI#vj`=;R0x&3p+Pu>ZiD{;B-"
        "_4;Ym&8nhXT2({0whDy~2DH!$CJHbrdk7dxAfiWRHODj|f1(VQ+2+~0p^5Onp}XQ6Ca?yobW;|(DSL&(G@3`gFig;GMT~?<eLb-NNl&&Z1hK"
        "ipP;CqpIoTKQ=kUT+@L~X&4%X2kgB+<WL$U(u$Y3&&xX|%>k9qsu<A3aa>BCdo@)tTz+)BakikHZh2OubyIl_SuPz}-"
        "wV(^jxDEEQJG=zYnCAMy0+v{kQdq60bU4l4Jz`fLpm(G<lAmkKk&C8TJ$|+bu?s=W1bU7W`aO|qrRZ9CloS7?kh2Yp_FQG*t^c)Ar#hF;x<0"
        "Z@efGLa@rV3NzV-wS(6B8p|Y*%xAFIDQC7hd`~u(seO?u1R^d}n-"
        "JiKSbU#f!oyUfrV?e|%dOziM15?!9`g7~McAQR*nAR#hogO0KGa&dKaarW45X+4!1<Pb&eq23>%!OU=|uN2Ny3<mih>()R+pvyNXe$(`vPAD"
        "Nt*9@$85@?Yp(!vej@MElcys7dEA6zoEiG}%R#T!d@YCRO)(B90cO4ou%=BCcWE5;1@7^Jj1V`Tq6U4{kiO>)LnM5B9xx{nlqUKD}ciwm9r*"
        "a)`M1KcR7KY-D13eC+P(xruF~@u%-"
        "IGmBrRX6*ERh1LC&GyN~*XAYnHtMH#R`ds!#|EbVU9Upq!LR83|&7QlUsD|5m1U*V;@1_^fV}XxlCTf97?$|gnhE3g%W}2oxeIk6drl+1YfL"
        "(?5x(Nm#Xxf!%ei(}SFVP%ZM{845*q0v+?+7`I|J2RHl*bGKBWl#p)o|E}Q3Y!+!%c&B6RKloM}1rF+~{Ysp|=6L&%)<PTWfPRi^5?FrWzhO"
        "*oB1S8X8w`s<7wg{|2jV`^E"
    ),
    "schedule_free, pickle": (
        "c-q~TO>7%Q7>3vO#&PVVKY$QDqzZ7TEx?MM#Ke}!wpB?EtG1*$)Dl#q@$SUCu-"
        "?C!jq6BJgHV&W8nuTG2P!BxgaksUC&~$~P<|w&N{9<W<bXheo)8iTzFj-61E$KgnS*y{zSlF~JTp7<uFG#;%1BY+W6Z!-"
        "lhpH$%gl!0hnF;i=z&G%eL_y?xN%-"
        "w7rEEPn#l5$PL^?CF&foIo7iszE~1RMRHzb<`C>up7Jjfv%(}sl<s;W=5(pjN3B@g_DYxGW%MCtMBMeh$`0Y+uzFJUz|MTnbAK!dtL-"
        "0h{^TOPVt*bvx@(PUD=~E{fZuO0oYT%1z!(1hz9q=K_Fe8FzG{>@t#!SbiQ0u0yn;L@&@l-"
        "7^EoO!xx!ZPGoD+PMIlgA(QNT<KVviu7gi0N`*vAdRU?SIrailN6h)o?ItrQ`U1)S0UDLil;vN(h+2kU6rcN(bHVuXU~<fAc3T902zTYtYj|"
        "JTH;@4s{;zaBsRO9Fn^JSkf}1e0=ohdD3>v_gCebMRsysE$FzG8wZ7BDQW~+ly~i)6mFTE<qF!P%p9O$=T`<G*ZLynKz`ys|l!?HuI9IT$RH"
        "<9J}rft8x&)nAz%ZDDI@}Nm?|8^gJZamO71TFIGJOn(|b+R4z>wrb{z3rCG1jujU3`LQS4wp1cUXUGStq+8E9!yX!TVSW@yYw3K(Bb(IgF-c"
        "XK7*A#l<9VJ=;RZ`<>Vne72HMSwz#$ld0>+8fP`l-$`<<1EPx-"
        "H`vylui;xEJMc6AEKIYfPM!9|pRooS<frfp`m(rP;}u>FHf~V}tSbw177z^_SG~F3w!89ia-"
        "L@pShKqCsQ7&?*$l#X@OvPqcQleY8G3dimGIPi`uMXeHtBf}>@hkSdm+pDmV(d)ik$Z6B!{(Sdz?AgS1D7t%w1v=z&<#o6+|c2n~I7<ILMN8"
        "98#^U7yGzM;HgYRb=rO=Y`zMR{`kqrpep{jZW-bP-"
        ";uBkJuBj8oHv5`1cV!r0UHVQgRevhqXi^U8ZK^YWeV{;1qrxm$Va16p}7#tieZX?JeweZsL&EY1|C_juEGwS64#ezB;0`|+x>y=^PE<~EcGe"
        "pQk0-F)zN3@9Is7^1rG1Yp1}L|1GwY71+|bJ!SGB_q{yV8%$#-"
        "5KegwKFots4>>FZ^nW9`h)EN^C8r5bnr;yyDVs)tY9m^p>ONP<<sG#=R(sv0=q7@_=rn<7Wg%yi#C7Ez!XuUIkpbTW8EY+nAJ9aB3v)zEdMu"
        "l227=IGJ-TG2<y3^##5+<wbx+PAv%J<<=QY5n8BmF^Q44@IrIrq=i&9Nt@S0FfveVaeL`uJ;4os2Yid+n6G1Jg<^KT~mz9b"
    ),
    "adamw, checkpoint": (
        "c-o~^+i%-"
        "c7(YqcH1$R=V_Unz$~G=_X_w{Vu1VOM5f$gbLWCf|3{BQaa!3qLozFhb+KCDfq9am;7;o^v<6ia$Oh^O7GXpe0lVI=wNL(bOG4a4FK6abh?%"
        "Iy=N!F2^^Sk7n-"
        "}kvBMS2j5#n7f2LVFN4stvVGj@2;5@zyJvSQtR3ef4^H84xe`+5nScN+7fhVF@imgqM4qm!t(fRjS)eamAvlW^#%_Dwe9%6iOCM-"
        "B8*o4tjZB?sN9*2Cfr`x)5$&w<;QW#(m2{pB%C`B_Jk8?6ummpkE46;GUMy<YcE>)isS&sj4rS+*3x47^F6@Rw)O&Cd;s!!aZdeaAe40OTq0"
        "r3^r`x#=4lO>6mu4h8(RV3^)3vD1|+?h7^_}D{!wAkwPo5x6@#>`zY)$!-"
        "&jn&?+XtsLR}NSyFJoWf|+T+~=~~@3I`EFkXfSEK}ZXZ*O4(H<h}fTP+g~oq@y4aD<n`_Ai<N4;J$uz0c|c=h!QRViO)J=Ks9P>WgCj=09J4"
        "xBvXq3Owwb60tcRDb78y^v=(T)ttkBmZ<dxRcfS)mtbOpj~xwenso!$fbYmG6-~UTHq~<kCOdL;-I@uHo`ER|VGBFAY*-"
        "qBX~)jvHQan2j#}}O)E9f<)ckv6wr%#5woKXxI^0cK{3YFJVyd)>VcORy77hji7pNqYxqS17H`yt(XKR@;G`k_QmNNxwYJH(e7N}TAZ?AOwI"
        "xa8+`Lpl`yPfd128L0-YoM}3iOv!#79P7B-"
        "SyH`N;Sefymj)I1MGsL+j<y4bH1)VmJkcM|6#yojh$i+Ztb18!6ailI5^>VkQ57<yLRx~E`ILf8<(%Vd-A6fzdrfxmDT57{g^wy?-"
        "S<d`>#r;M{UK?9sErD{iMVKf5(10uYI1oQTZ%)@x|5b)o=dF-D+RY9l2!YnEu-"
        "r{!Z?!KZvHf`rXt|+^K;y$CR#pSbuis{Eeg3Mgus1)g*>$cfdK!My8_H#6tW(-"
        "b5lJWQ9y7Bg|%x&m@G*Y<eb<%%l=Raz+rcvqCnVNv9K;6muEle;ns+AH3r-6n2uc=F>YVhBi45eusi+?*JI_Azu!ot!7J*#M{JUK9Xx*l1-"
        "B%$m4CqVINO9f;JC;Al%zU13vim2nzIW5bI66AIrwHzw3fnZ(9A>--Fmx5bMp~pby*VMZt6j!QNPm`@mm&z_$-"
        "<Ns30N*W(>I+C}yU)?(OQ7o+ZK<Jh+jeY)ns{c`k1T};2T-`)E!UyUGq"
    ),
    "schedule_free, checkpoint": (
        "c-"
        "o~_TWs4@7<Q914Qc6RjI}FUcj3~Mc4_WyvaRkyNggagn+g#aljSCd#KMX5+sElzsRA*rYtb}`mr3lQyzQkDLcG9u0p2DkmkCsX1`+})fj}D7"
        "q=Cc>K0a+~yK1|&C$b#d|93g({Qqx{a!wb+cs$Ie(aP*&1SMA#tEfLOV8LH`O-"
        "d!3nU^i&4aW>HzHGe?P_cj!)Xji{V`jkV%esu4r~<AWmUSjSuVGPAy}W`ZG*Qa)7?o97;j1Ap)cbtd1|wcpgaQILg?L9~Z9+oh^sW~gvUPe;"
        "06bZze$G`ic!;aR;2q<bo}T$!PL?E;!=hYPz0WIoq@etWn8RLZ?8!hAhKDoIob~F+NhB7Em{+wDv=nviqPs|`gV0(uDBCDyks$YBcq9Y+vu-"
        "^=QuvZ^9v-!zLU4eh+D)hq3<opNX#`BeV-"
        "&D9t&}7SxHhXpMobtE>m+UrT{;Qp;GDB?gmZFrvv8CW9>Z`v1CJXMK<6vGP%ZE(z!Pg$C`$yMq%2R>Sh^{TkFxY&csc{U*+xAWD}q?&D}o}F"
        "pwB`Rg%gy<U!&=#GyzHz#1P6rSW~l2dbmNs7Zh2ms1P{^(HV&Oj3<+VQqn3s$paMzIL2UCU@*O&XW5pG{m>V;B2OX(;_2b_#|~rBA(3WpyhF"
        "w{BiSYp7F0NyX8&3u<I6OA=bx{BIB=<V7ET$tLF7)Shn}6f@=M@yf?A;>d6W~TU}(btNq&7##gaIUfSotC*_e<D!{^`(#|U)EtAeBnSS%MHI"
        "j0FmdMlcQ;F)Zj{&zfAM0x!(r66=BFO*({5zRl!HF(aJ7C$+nTO!BkmgUyY9IBO@|5aHj37D@UMb&dTmF%!p-"
        "NpzKg%9uic!4Y{Ikr~lWCk`A*6NHGB(YE~p)yV-!&{1MGhz{9fSrUt$UZr?HPFVeH3Jh<7|EnUQ^}LN(On;sh_Qr-hl{6wJxF%Wy{(64X2{a"
        "j`U9zCVh;u=t7n)vSl!=!n@D<gaB#}%Aec%H?%Kh}T^Iix`)GkB`uCQ;TiJzvXfOKLjGDY*=-"
        "(W_es350;l1bwzD}{9{(OObMa;3k1uwBHlW(!d4!>vkxjHxWT!*gMv4fvJtDi_J>AP<~^RIuAxIOV%;`-Uk@uhG7POMg!6UP_T1ks;+`)+U-"
        "`q2l`U;ccI{pS5?c4ei^elRr49=&{pb*<8Tc=P7sOFQegFugVXTEpqSUjtz;QM$EIcwy)I?_xq54ak_PiWE`rK+^(wW%FV_mGnPgCImyV!Dw"
        "tC9FN6g5&aj61%rWDI2w+|<MB{95R43vCq|oG`RUySpYFqFxU6#+mAmHC+@xDKIk$fY+0o_(+-"
        "^b2PG+mNZYMD}(M}7=Ei=ic&TZ#0H^MdxPsYV;Zoqc9xr;Sh;L9$?);sN3a|g0w$xGYX_3T)4_poBWw_`(gthv%{x^5dbY{#0b)QbJxj*Zx{"
        "<_fc7iw!nx)Q&aROp8_5gxw-n%&FXE-D3~4Ly?VgZg<~$Njgu|kWIGpe-3*7cTH2rkuP-SZX>;>UmNvqifJ<9Y3%<QgXc5"
    ),
}
MAKE: dict[str, Callable[[Any], optim.RuleOptimizer]] = {
    "adamw": lambda params: optim.AdamW(params, lr=0.1, weight_decay=0.1),
    "clipped": lambda params: optim.optimizer_for("clip(adamw)")(params, lr=0.1),
    "schedule_free": lambda params: optim.ScheduleFreeAdamW(params, lr=0.1),
}
# Modules that a pickle of an optimizer may name, beside those of rules. A class in another one could never move.
NAMED = {
    "thalweg.optim",
    "thalweg.optim.evaluation_mode",
    "thalweg.optim.routing.assignment",
    "thalweg.optim.routing.routing",
    "thalweg.optim.rule_classes",
    "thalweg.optim.setting_warnings",
}


def step(optimizer: optim.RuleOptimizer, number: int) -> None:
    (param,) = optimizer.param_groups[0]["params"]
    param.grad = torch.arange(1.0, 7.0).mul(number).sin().reshape(2, 3)
    optimizer.step()


def trained(name: str) -> optim.RuleOptimizer:
    """Return an optimizer that took the three steps of the old ones, in their mode."""
    optimizer = MAKE[name]([torch.nn.Parameter(torch.ones(2, 3))])
    for number in (1, 2, 3):
        step(optimizer, number)
    if name == "schedule_free":
        optimizer.eval()
    return optimizer


def read(text: str, name: str, kind: str) -> optim.RuleOptimizer:
    stored = zlib.decompress(base64.b85decode(text))
    if kind == "pickle":
        optimizer: optim.RuleOptimizer = pickle.loads(stored)
        return optimizer
    (now,) = trained(name).param_groups[0]["params"]
    optimizer = MAKE[name]([torch.nn.Parameter(now.detach().clone())])
    optimizer.load_state_dict(torch.load(io.BytesIO(stored), weights_only=True))
    return optimizer


@pytest.mark.parametrize("stored", OLD)
def test_what_an_earlier_version_saved_goes_on(stored: str) -> None:
    name, kind = stored.split(", ")
    expected, optimizer = trained(name), read(OLD[stored], name, kind)
    for each in (expected, optimizer):
        each.train()
        for number in (4, 5):
            step(each, number)
    torch.testing.assert_close(optimizer.param_groups[0]["params"], expected.param_groups[0]["params"])
    assert not torch.equal(trained(name).param_groups[0]["params"][0], expected.param_groups[0]["params"][0])


def routed() -> optim.RuleOptimizer:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optimizer = optim.route(model, "muon+adamw").optimizer()
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", [*MAKE, "routed", "capturable"])
def test_a_pickle_names_only_modules_that_stay(name: str) -> None:
    if name == "routed":
        optimizer = routed()
    elif name == "capturable":
        optimizer = optim.Lion([torch.nn.Parameter(torch.ones(2, 3))], capturable=True)
        step(optimizer, 1)
    else:
        optimizer = trained(name)
    texts = {argument for _, argument, _ in pickletools.genops(pickle.dumps(optimizer)) if isinstance(argument, str)}
    modules = {text.partition(" ")[0] for text in texts if text.startswith("thalweg.")}
    assert "thalweg.optim" in modules or "thalweg.optim.rule_classes" in modules
    assert {module for module in modules if not module.startswith("thalweg.rules.")} <= NAMED
